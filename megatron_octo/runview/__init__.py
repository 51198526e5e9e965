"""A run shown from outside, while it trains or afterwards: a summary, and a page with plots.

Modules here only read the run's files, and never import torch, the model or the training.
"""
