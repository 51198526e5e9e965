"""Rows of HumanEvalPack: reading and checking them."""

import gzip
import json
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_json
from megatron_octo.evaluation.benchmark.repairs import repaired_row

TASK_IDS = {"python": "Python", "js": "JavaScript", "java": "Java", "go": "Go", "cpp": "CPP", "rust": "Rust"}
_HUB = "hf:"
_PUBLISHED = "bigcode/humanevalpack"
_OPTIONAL = ("imports", "test_setup", "bug_type", "failure_symptoms", "example_test")


@dataclass(frozen=True)
class Row:
    """One problem in one language; fields as published, except ``imports`` (published as ``import``).

    Attributes:
        language: ``python``, ``js``, ``java``, ``go``, ``cpp`` or ``rust``; ``number``: of the problem, from 0.
        prompt: context, signature and docstring; ``declaration``: the same without docstring.
        canonical_solution: body of the right solution; ``buggy_solution``: the same with a bug.
        imports: Go's imports of the prompt; ``test_setup``: Go's head of the test file. Empty elsewhere.
    """

    language: str
    number: int
    task_id: str
    prompt: str
    declaration: str
    canonical_solution: str
    buggy_solution: str
    bug_type: str
    failure_symptoms: str
    entry_point: str
    signature: str
    docstring: str
    instruction: str
    test: str
    example_test: str
    imports: str = ""
    test_setup: str = ""


_TEXTS = [field.name for field in fields(Row) if field.name not in ("language", "number")]


def read_rows(source: str | Path, language: str, *, repaired: bool = True) -> list[Row]:
    """Read the rows of one language, in the order of their numbers.

    Args:
        source: folder with ``humanevalpack_LANGUAGE.jsonl`` (also ``.gz``) or ``LANGUAGE/data/humanevalpack.jsonl``;
            or ``hf:bigcode/humanevalpack``, a data set of the hub (extra ``[datasets]``).
        language: one of LANGUAGES.
        repaired: with the repairs of ``repairs.yaml``; without them, rows are as published.

    Raises:
        OctoError: no such file, or a row that is not one of HumanEvalPack; names file and row.
    """
    if str(source).startswith(_HUB):
        where, records = str(source), _from_hub(str(source)[len(_HUB) :], language)
    else:
        path = _find(Path(source), language)
        where, records = str(path), _from_file(path)
    rows = [_row(record, language, f"{where}:{line}") for line, record in enumerate(records, start=1)]
    numbers = [row.number for row in rows]
    if len(set(numbers)) != len(numbers):
        raise OctoError("the same problem comes twice", where=where)
    if not rows:
        raise OctoError("no rows", where=where)
    rows.sort(key=lambda row: row.number)
    return [repaired_row(row) for row in rows] if repaired else rows


def data_digest(rows: Iterable[Row]) -> str:
    """Return a digest of rows with all their fields."""
    return digest_json([asdict(row) for row in rows])


def _find(folder: Path, language: str) -> Path:
    names = [f"humanevalpack_{language}.jsonl", f"{language}/data/humanevalpack.jsonl", f"{language}.jsonl"]
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    raise OctoError(
        f"no rows of HumanEvalPack in {language}",
        where=folder,
        hint=f"expected {names[0]} or {names[1]}, also with .gz; or --data hf:bigcode/humanevalpack",
    )


def _from_file(path: Path) -> list[dict[str, Any]]:
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise OctoError(f"cannot be read: {error}", where=path) from None
    records = []
    for number, line in enumerate(text.split("\n"), start=1):  # a text may hold other ends of lines
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise OctoError(f"not JSON: {error}", where=f"{path}:{number}") from None
        records.append(record)
    return records


def _from_hub(name: str, language: str) -> list[dict[str, Any]]:
    try:
        import datasets
    except ImportError:
        raise OctoError(
            "the package datasets is not installed", where=f"hf:{name}", hint="pip install 'megatron-octo[datasets]'"
        ) from None
    try:
        if name == _PUBLISHED:  # its own loader is a script, which datasets refuses since 4.0
            files = f"hf://datasets/{name}/data/{language}/data/humanevalpack.jsonl"
            found = datasets.load_dataset("json", data_files={"test": files}, split="test")
        else:
            found = datasets.load_dataset(name, language, split="test")
        return [dict(record) for record in found]
    except Exception as error:  # its own, the hub's and the network's errors have no common class
        raise OctoError(f"cannot be loaded: {error}", where=f"hf:{name}") from None


def _row(record: Any, language: str, where: str) -> Row:
    if not isinstance(record, dict):
        raise OctoError("not a row of HumanEvalPack: not an object", where=where)
    record = {("imports" if name == "import" else name): value for name, value in record.items()}
    texts: dict[str, Any] = {name: record.get(name, "" if name in _OPTIONAL else None) for name in _TEXTS}
    if bad := [name for name, value in texts.items() if not isinstance(value, str)]:
        raise OctoError(f"not a row of HumanEvalPack: no text in {', '.join(bad)}", where=where)
    try:
        "".join(texts.values()).encode()
    except UnicodeEncodeError:
        raise OctoError("not a row of HumanEvalPack: half of a surrogate pair in a text", where=where) from None
    head, _, number = texts["task_id"].partition("/")
    if head != TASK_IDS[language] or not number.isdigit():
        raise OctoError(
            f"task_id {texts['task_id']!r} is not one of {language}", where=where, hint=f"{TASK_IDS[language]}/0"
        )
    return Row(language=language, number=int(number), **texts)
