"""Commit data: histories of git repositories as rows, with language, licence and owners that opted out.

Tokens, masks and training do not belong here.
"""
