"""Comparison and description of weights of any format.

Reads through the readers and computes with real networks; writes no weights.
"""
