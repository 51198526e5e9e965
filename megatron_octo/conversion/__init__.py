"""Conversion of weights between formats and parallel layouts, and proof that nothing changed.

Rooms from low to high: engine, readers, writers, proof. Training reads through the readers; nothing here trains.
"""
