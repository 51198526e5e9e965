"""Verdicts of many samples: the queue, the cache of verdicts, and the check of each toolchain before it counts.

Statistics and reports do not belong here.
"""
