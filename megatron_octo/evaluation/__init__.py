"""Scores of HumanEvalPack: samples of a model, run in a sandbox, counted with intervals.

It holds the benchmark, generation, the sandbox, the languages and the reports. Training and SLURM
scripts do not belong here.
"""
