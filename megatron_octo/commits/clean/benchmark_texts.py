"""Texts of benchmarks that the data must not hold: prompts, solutions and tests, read from the benchmarks' files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from megatron_octo.common.errors import OctoError
from megatron_octo.data.preprocessing.recognize import check_rows
from megatron_octo.data.preprocessing.sources import open_input, pieces

# Columns of HumanEvalPack, HumanEval and MBPP that hold what a model is asked, answers or is judged by.
FIELDS = ("prompt", "canonical_solution", "buggy_solution", "test", "text", "code", "test_list")
SUFFIXES = (".jsonl", ".jsonl.gz")


@dataclass(frozen=True)
class Source:
    """A benchmark on disk.

    Attributes:
        name: in the report.
        paths: its files.
        fields: columns; those of :data:`FIELDS` that a row has if empty.
    """

    name: str
    paths: tuple[str, ...]
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Text:
    """One text of a benchmark.

    Attributes:
        where: ``benchmark/task/field``.
        text: as it is.
    """

    where: str
    text: str


def parse_source(words: str) -> Source:
    """Read ``NAME=PATH[:FIELD,FIELD]``; a folder stands for its files of jsonl.

    Raises:
        OctoError: it is written otherwise, or there is no such file.
    """
    name, equals, rest = words.partition("=")
    path, _, fields = rest.partition(":")
    if not name or not equals or not path:
        hint = "write NAME=PATH, or NAME=PATH:FIELD,FIELD"
        raise OctoError(f"not a benchmark: {words!r}", where="command line", hint=hint)
    place = Path(path)
    if place.is_dir():
        found = sorted(each for each in place.iterdir() if each.name.endswith(SUFFIXES) and name in each.name)
    else:
        found = [place] if place.is_file() else []
    if not found:
        what = f"no file of jsonl with {name!r} in its name" if place.is_dir() else "no such file"
        raise OctoError(what, where=path, hint="download the benchmark's rows as jsonl")
    return Source(name, tuple(map(str, found)), tuple(field for field in fields.split(",") if field))


def read_texts(source: Source) -> Iterator[Text]:
    """Read the texts of a benchmark.

    Raises:
        OctoError: a line is no object, a named column is missing, or no row has any text; file and line are named.
    """
    count = 0
    for path in source.paths:
        opened = open_input(path)
        check_rows(opened.path, opened.packing)
        for piece in pieces([opened], 1 << 26):
            for lines in piece.rows([]):
                for place, line in lines:
                    try:
                        row = orjson.loads(line)  # type: ignore[arg-type]
                        found = list(_of_row(row, source, f"line {place}"))
                    except (ValueError, KeyError, AttributeError) as error:
                        what = f"not a row of the benchmark: {type(error).__name__}: {error}"
                        raise OctoError(what, where=lines.where(place)) from None
                    count += len(found)
                    yield from found
    if not count:
        raise OctoError(f"no texts of {source.name!r}", where=source.paths[0], hint=f"columns: {', '.join(FIELDS)}")


def _of_row(row: dict[str, object], source: Source, place: str) -> Iterator[Text]:
    task = str(row.get("task_id", place)).strip("/")
    for field in source.fields or [each for each in FIELDS if each in row]:
        value = row[field]
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and text.strip():
                yield Text(f"{source.name}/{task}/{field}", text)


def distinct(texts: Sequence[Text]) -> dict[str, list[str]]:
    """Return where each text stands, by the text."""
    found: dict[str, list[str]] = {}
    for each in texts:
        found.setdefault(each.text, []).append(each.where)
    return found
