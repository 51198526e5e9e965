"""Duplicates, contamination by benchmarks, secrets and personal data, bots.

Rules of CommitPackFT do not belong here.
"""
