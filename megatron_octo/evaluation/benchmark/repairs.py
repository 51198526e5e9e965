"""Repairs of published rows: faults of the benchmark that decide a score or mislead a prompt."""

import dataclasses
import functools
from importlib import resources
from typing import TYPE_CHECKING, Any

from megatron_octo.common.files import digest_bytes, digest_json
from megatron_octo.common.strict_yaml import parse_yaml

if TYPE_CHECKING:
    from megatron_octo.evaluation.benchmark.rows import Row


@functools.cache
def repairs() -> dict[tuple[str, int | str], list[dict[str, Any]]]:
    """Return the repairs by language and number of the row (or ``all``).

    Each has ``field``, ``reason``, ``digest`` (of the field as published), and ``replace`` with ``by``, or ``take``
    (another field whose text is taken).
    """
    text = resources.files("megatron_octo.evaluation.benchmark").joinpath("repairs.yaml").read_text(encoding="utf-8")
    found: dict[tuple[str, int | str], list[dict[str, Any]]] = {}
    for entry in parse_yaml(text, "repairs.yaml"):
        found.setdefault((entry["language"], entry["row"]), []).append(entry)
    return found


def repaired_row(row: "Row") -> "Row":
    """Return a row with its repairs. A field that is not as published (another data set) is left as it is."""
    known = repairs()
    for repair in (*known.get((row.language, row.number), ()), *known.get((row.language, "all"), ())):
        name = repair["field"]
        old = getattr(row, name)
        if digest_bytes(old.encode()) == repair["digest"]:
            new = getattr(row, repair["take"]) if "take" in repair else old.replace(repair["replace"], repair["by"])
            row = dataclasses.replace(row, **{name: new})
    return row


def digest() -> str:
    """Return a digest of all repairs."""
    return digest_json([entry for entries in repairs().values() for entry in entries])
