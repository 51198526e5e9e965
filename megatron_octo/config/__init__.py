"""Sections of a recipe: the fields that users set, each with its own check. No architecture, no file and no torch."""
