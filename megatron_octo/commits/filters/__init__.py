"""CommitPackFT's rules as pure functions with names, as the original applies them and as they were meant.

Deduplication, contamination and secrets do not belong here.
"""
