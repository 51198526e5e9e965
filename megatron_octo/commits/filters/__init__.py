"""Rules that keep or drop a row by itself: CommitPackFT's two stages, and their repaired form.

What needs other rows (duplicates) does not belong here.
"""
