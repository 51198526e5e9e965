"""Made rows, and stages that processes can import."""

import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

from megatron_octo.commits.rows import Row, Writer, each_kept

LANGUAGES = ("Python", "C++", None, "unknown")


def made_rows(count: int, size: int = 40) -> Iterator[Row]:
    for number in range(count):
        yield Row(
            commit=f"{number:040x}",
            old_file=f"a/{number}.py",
            new_file=f"a/{number}.py",
            old_contents=None if number % 7 == 3 else "x é\n" * (number % size),
            new_contents="" if number % 5 == 2 else "y\r\n" * (number % size),
            subject=f"Change {number}",
            message=f"Change {number}\n\nmore\n",
            lang=LANGUAGES[number % 4],
            license="mit",
            repos="a/b,c/d" if number % 2 else "a/b",
            old_blob="0" * 40,
            author="A <a@example.org>",
            date="2020-01-02T03:04:05+01:00",
            signals={"tokens": number if number % 3 else None, "tags": ["a", "b"] if number % 2 else None},
        )


def write_rows(path: Path, count: int, size: int = 40) -> Path:
    with Writer(path, {"tokens": "int", "tags": "texts"}) as writer:
        for row in made_rows(count, size):
            writer.write(row)
    return path


def halve(rows: Iterable[Row], settings: object) -> Iterator[Row]:
    """Drop every second row, and give each a signal."""

    def one(row: Row) -> Row:
        number = int(row.commit, 16)
        row.signals["half"] = number / 2
        return row.mark("odd", f"{number} is odd") if number % 2 else row

    return each_kept(one, rows)


def thirds(rows: Iterable[Row], settings: object) -> Iterator[Row]:
    """Drop every third of the rows that are left."""
    return each_kept(lambda row: row.mark("third") if int(row.commit, 16) % 3 == 0 else row, rows)


def killed(rows: Iterable[Row], settings: str) -> Iterator[Row]:
    """Drop as :func:`halve`; kill this process and its parent at the row that the environment names."""
    for row in halve(rows, settings):
        if row.commit == f"{int(os.environ.get('KILL_AT', '-1')) % 2**64:040x}":
            if os.environ.get("KILL_PARENT"):
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        yield row


def loses(rows: Iterable[Row], settings: object) -> Iterator[Row]:
    for number, row in enumerate(rows):
        if number:
            yield row
