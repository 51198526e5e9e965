"""Processes that run foreign programs without network, files, privileges or unlimited resources.

Nothing here depends on a programming language or on the benchmark.
"""
