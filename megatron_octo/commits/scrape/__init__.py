"""Contents before and after for rows that have none, fetched from git servers.

Nothing here reads a local history or filters.
"""
