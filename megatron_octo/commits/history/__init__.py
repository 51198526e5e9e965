"""Commits of git repositories, local or remote, as rows.

Nothing here filters by what a message or a file says.
"""
