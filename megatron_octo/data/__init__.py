"""Data: from rows of text to packed batches. Imports no torch and nothing of model, training or run files."""
