"""Runs under SLURM: profiles, stages, sbatch scripts, submission, restarts and status.

Modules here decide and start; they never import torch or the training, which run in the jobs.
"""
