"""Commit data: from git histories and tables of commits to a clean set of instructions.

It holds queries, histories, scraping, filters, cleaning, mixing and their report. Tokens, masks and
training do not belong here.
"""
