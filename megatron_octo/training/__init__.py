"""Training of a run: preparation of a start, the loop, and their parts in folders.

No file format, kernel or SLURM call belongs here; checkpoint, model and cluster have them.
"""
