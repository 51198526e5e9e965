"""Rows that are in the data already, or in a benchmark: duplicates, near duplicates and contamination.

What a row says by itself, without the others, does not belong here.
"""
