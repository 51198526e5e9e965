"""Five SQL statements that find single-file commits in tables of repositories, and the engines that run them.

Contents of files do not belong here.
"""
