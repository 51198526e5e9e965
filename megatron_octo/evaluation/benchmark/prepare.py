"""Rebuilding HumanEvalPack from HumanEval-X, the list of bugs, and HumanEval."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import atomic_write, digest_bytes, regular
from megatron_octo.evaluation.benchmark.derived import packed
from megatron_octo.evaluation.records import LANGUAGES

_SOURCES = "evaluation/create/humaneval-x of github.com/bigcode-project/octopack"
_PUBLISHED = {
    "python": "xxh3-128:7d7f4cfee30d5c5dc90f6b8cf9195b2e",
    "js": "xxh3-128:80f29a80238e49ad5b6a6a39492756c4",
    "java": "xxh3-128:c84ae1730554ef562876db6b01c031ef",
    "go": "xxh3-128:96bd94d72bb4ee9ba4d1e86b1032bf00",
    "cpp": "xxh3-128:37540cbd4dae21e4aa6d2cf21a9d0549",
    "rust": "xxh3-128:eef602907c7e7226978127793da9bc12",
}
# Python's published row 142 has a stray quote in docstring and instruction, which repairs.yaml removes as well.
_REPAIRED = {**_PUBLISHED, "python": "xxh3-128:2e1d92158ac5977cca6c8f9e49364ff0"}


@dataclass(frozen=True)
class Prepared:
    """A file that was rebuilt.

    Attributes:
        language: of its rows; ``path``: of the file; ``rows``: their number; ``digest``: of the file.
        note: how it compares with the published file, for the user.
        expected: whether the digest is the known one.
    """

    language: str
    path: Path
    rows: int
    digest: str
    note: str
    expected: bool


def prepare(sources: Path, output: Path) -> list[Prepared]:
    """Write ``humanevalpack_LANGUAGE.jsonl`` of the six languages, each whole or not at all.

    Args:
        sources: folder with ``HumanEval_original.jsonl``, ``data/LANGUAGE/data/humaneval.jsonl`` and, beside each of
            these, ``humanevalpack.json``.
        output: folder of the files; created.

    Raises:
        OctoError: a file is missing or not what it should be.
    """
    original = _read(sources / "HumanEval_original.jsonl", _lines)
    kinds = _read(sources / "data" / "python" / "data" / "humanevalpack.json", _array)
    texts: dict[str, tuple[int, bytes]] = {}
    for language in LANGUAGES:
        folder = sources / "data" / language / "data"
        source, bugs = _read(folder / "humaneval.jsonl", _lines), _read(folder / "humanevalpack.json", _array)
        lengths = (len(source), len(bugs), len(kinds), len(original))
        if len(set(lengths)) != 1:
            raise OctoError(f"the sources differ in their number of rows: {lengths}", where=folder, hint=_SOURCES)
        rows = []
        for number, parts in enumerate(zip(source, bugs, kinds, original, strict=True)):
            rows.append(_packed(language, f"{folder}/humaneval.jsonl:{number + 1}", *parts))
        texts[language] = len(rows), b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    output.mkdir(parents=True, exist_ok=True)
    return [_written(language, output, *texts[language]) for language in LANGUAGES]


def _packed(language: str, where: str, source: Any, bug: Any, kind: Any, original: Any) -> dict[str, Any]:
    try:
        return packed(language, source, bug, kind, original["entry_point"])
    except KeyError as error:
        raise OctoError(f"a field is missing: {error}", where=where, hint=_SOURCES) from None
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise OctoError(f"not a row of HumanEval-X: {error}", where=where, hint=_SOURCES) from None


def _written(language: str, output: Path, rows: int, data: bytes) -> Prepared:
    path = output / f"humanevalpack_{language}.jsonl"
    with atomic_write(path) as file:
        file.write(data)
    digest = digest_bytes(data)
    if digest == _PUBLISHED[language]:
        note = "as published"
    elif digest == _REPAIRED[language]:
        note = "as published, except for the stray quote in row 142"
    else:
        note = "differs from what was published"
    return Prepared(language, path, rows, digest, note, digest == _REPAIRED[language])


def _read(path: Path, parse: Callable[[str], list[Any]]) -> list[Any]:
    try:
        found = parse(regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # JSON's and UTF-8's errors are ValueErrors
        raise OctoError(f"cannot be read: {error}", where=path, hint=f"from {_SOURCES}") from None
    if not found or not all(isinstance(row, dict) for row in found):
        raise OctoError("no rows, or rows that are not objects", where=path, hint=f"from {_SOURCES}")
    return found


def _lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _array(text: str) -> list[Any]:
    found = json.loads(text)
    return found if isinstance(found, list) else []
