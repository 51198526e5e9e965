"""A recipe of stages, one after the other, on one machine or as jobs of SLURM.

What a stage does to rows does not belong here.
"""
