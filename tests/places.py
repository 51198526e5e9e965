"""Folders that tests read: the project, its recipes, and shared data that may be absent."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
RECIPES = PROJECT / "recipes"
SHARED = PROJECT.parent / "shared" / "data"
