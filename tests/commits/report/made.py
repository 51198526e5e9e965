"""Chains of made stages whose fates are known."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from megatron_octo.commits.rows import Row, Writer, each_kept, run_stage

EVIL = "<script>alert(1)</script><img src=x onerror=y>\u202e|\x1b[31m [a](javascript:b) ``` www.x.y http://x.y `"
# Stage, and the rules by which it drops the rows whose number is divisible by them.
STAGES: tuple[tuple[str, dict[str, int]], ...] = (
    ("one", {"thirds": 3, "fifths": 5}),
    ("two", {"sevenths": 7}),
    ("three", {"elevenths": 11}),
)


def made_row(number: int) -> Row:
    """Return a row of one of four languages."""
    contents = f"contents {number}\n" * (number % 5)
    signals: dict[str, Any] = {"number": number, "tokens": number if number % 2 else None}
    return Row(
        f"{number:040x}",
        "a.py",
        "a.py",
        None if number % 13 == 0 else contents,
        f"{contents}é\n",
        f"Add part {number}",
        f"Add part {number}\n",
        lang=(None, "CSS", "Python", "C++")[number % 4],
        license="mit" if number % 2 else "isc,mit",
        repos="a/b",
        signals=signals,
    )


def write_rows(path: Path, rows: Iterable[Row]) -> Path:
    """Write rows; returns the path."""
    with Writer(path) as writer:
        for row in rows:
            writer.write(row)
    return path


def drop_by_number(rows: Iterable[Row], rules: dict[str, int]) -> Iterator[Row]:
    """Drop rows by the first rule that divides their number."""

    def one(row: Row) -> Row:
        for rule, by in rules.items():
            if row.signals["number"] % by == 0:
                row.mark(rule)
        return row

    return each_kept(one, rows)


def make_chain(
    folder: Path,
    rows: Iterable[Row],
    left_out: Sequence[bool],
    stages: Sequence[tuple[str, dict[str, int]]] = STAGES,
    suffix: str = "",
) -> list[Path]:
    """Run stages; returns their outputs."""
    before, outputs = write_rows(folder / "in.jsonl", rows), []
    for (name, rules), leave_out in zip(stages, left_out, strict=True):
        output = folder / f"{name}{suffix}"
        run_stage(name, [before], output, drop_by_number, settings=rules, leave_out=leave_out)
        outputs.append(output)
        before = output
    return outputs
