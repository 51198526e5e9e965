"""Recipes: the whole of a run's settings as one object, and reading it from YAML with overrides.

Checks that need several sections live here; a section's own checks live in :mod:`megatron_octo.config`.
"""

from megatron_octo.recipe.loading import load_recipe
from megatron_octo.recipe.schema import Recipe

__all__ = ["Recipe", "load_recipe"]
