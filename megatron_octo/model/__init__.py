"""Networks and their weights, built from a model's shape and a ``Compute``.

No recipe, no optimizer and no files of runs here.
"""
