"""Commits of git repositories, local or remote, as rows.

Nothing here filters.
"""
