"""Estimates before a run: FLOPs, memory, time, disk, and how often to save.

Modules here are arithmetic on recipes: they import no torch, and start or measure nothing.
"""
