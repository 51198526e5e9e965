"""Scores, intervals, differences of two runs, and the reports that show them.

Nothing here runs a program or a model.
"""
