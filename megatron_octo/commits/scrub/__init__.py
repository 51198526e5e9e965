"""Removal of addresses and secrets from rows, the same in all texts of a row.

What else makes a row bad, or who wrote it, does not belong here.
"""
