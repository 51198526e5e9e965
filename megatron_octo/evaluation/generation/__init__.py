"""Samples of a model: loading it, batches, random streams and stopping.

Nothing here executes what the model wrote.
"""
