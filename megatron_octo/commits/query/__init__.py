"""Commits of a lake of tables in the shape of BigQuery's ``github_repos``, by SQL: one set of texts, three engines.

Contents of files and the git repositories themselves do not belong here.
"""
