"""Rows of HumanEvalPack, their repairs, the thirty tasks, prompts, and where an answer is cut.

Nothing here runs a program or a model.
"""
