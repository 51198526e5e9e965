"""Pairs of an instruction and its answer, from conversations, task collections and commits, and their mixture.

What makes a commit a good or a bad row does not belong here.
"""
