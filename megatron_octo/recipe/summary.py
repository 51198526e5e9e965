"""A recipe in a few lines: its size in human units, and what differs from the defaults. Imports no torch."""

from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from megatron_octo.architectures.parameters import count_parameters
from megatron_octo.recipe.schema import Recipe

_LONGEST = 300  # characters per line
_UNITS = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


def in_words(count: float) -> str:
    """Return a large number with three digits and its unit, or a small one in full."""
    for size, name in _UNITS:
        if count >= 0.9995 * size:
            return f"{count / size:.3g} {name}"
    return f"{count:,.0f}"


def _value(key: str, value: Any) -> str:
    if key.endswith("_minutes") and value is not None:
        hours, minutes = divmod(value, 60)
        return f"{hours:.0f} h {minutes:.0f} min" if hours else f"{value:g} min"
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    if isinstance(value, int) and value >= 10_000 and key != "seed":
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def differences(section: BaseModel) -> dict[str, str]:
    """Return the values of a section that are not the defaults, as text by key; keys without a default always."""
    found = {}
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if field.default is PydanticUndefined or value != field.default:
            found[key] = _value(key, value)
    return found


def summary(recipe: Recipe, world: int) -> list[str]:
    """Return lines for the start of a training on ``world`` ranks; ``RUN/recipe.yaml`` has all keys."""
    parallel, batch = recipe.parallel, recipe.batch
    tokens = batch.global_size * recipe.data.seq_length
    ranks = f"{world} rank{'s' if world > 1 else ''}"
    if world > 1:
        data = world // (parallel.tensor * parallel.pipeline)
        ranks += f" (tensor {parallel.tensor} x pipeline {parallel.pipeline} x data {data})"
    lines = [
        f"{recipe.run_dir}: {in_words(count_parameters(recipe.model))} parameters, {ranks}; "
        f"{recipe.train.steps:,} steps of {in_words(tokens)} tokens, {in_words(tokens * recipe.train.steps)} in all",
        "not the defaults:",
    ]
    for name in type(recipe).model_fields:
        section = getattr(recipe, name)
        if isinstance(section, BaseModel) and (found := differences(section)):
            text = f"  {name}: " + ", ".join(f"{key} {value}" for key, value in found.items())
            lines.append(text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "...")
    return lines
