"""An attack, its outcome, and the loop over many of them."""

import json
import random
import re
import time
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.support.forks import Done

# C0 controls except tab and newline, DEL, C1 controls, and the signs that turn the direction of a text.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Outcome:
    """The end of an attack.

    Attributes:
        kind: kind of attack, for the table.
        verdict: how it ended, for the table: ``refused``, ``equal``, ...
        fault: description of the fault; empty: none.
    """

    kind: str
    verdict: str
    fault: str = ""


class Campaign(ABC):
    """Attacks on inputs that are made once; each attack depends on its own generator alone."""

    count = 200  # attacks, unless the command line gives another number

    def __init__(self, folder: Path) -> None:
        """Make the inputs in an empty folder."""
        self.folder = folder

    @abstractmethod
    def attack(self, generator: random.Random, folder: Path) -> Outcome:
        """Attack once, in an empty folder."""


def ending(done: Done, codes: tuple[int, ...] = (0, 2)) -> str:
    """Return the fault in how a command ended: a hang, a traceback, another exit code; empty: none."""
    last = " / ".join(done.text.strip().splitlines()[-2:])[-300:]
    if done.code is None:
        return f"no end after {done.seconds:.0f} s: {last}"
    if "Traceback (most recent call last)" in done.text:
        return f"traceback: {last}"
    if done.code not in codes:
        return f"exit code {done.code}: {last}"
    if done.code and not done.text.strip():
        return f"exit code {done.code} without a message"
    return ""


def controls(text: str) -> str:
    """Return the fault of control characters in a text that goes to a terminal; empty: none."""
    found = CONTROL.search(text)
    return f"control character {found[0]!r} in {text[max(0, found.start() - 40) : found.end() + 20]!r}" if found else ""


def run(campaign: Campaign, name: str, seed: int, first: int, count: int) -> dict[str, Any]:
    """Attack ``count`` times; prints faults as they come and a table; returns the figures."""
    table, faults, start = Counter[tuple[str, str]](), [], time.perf_counter()
    for number in range(first, first + count):
        folder = campaign.folder / f"attack-{number}"
        folder.mkdir()
        outcome = campaign.attack(random.Random(f"{seed} {number}"), folder)
        table[outcome.kind, "FAULT" if outcome.fault else outcome.verdict] += 1
        if outcome.fault:
            faults.append({"number": number, "kind": outcome.kind, "fault": outcome.fault})
            again = f"python -m benchmarks.campaigns {name} --seed {seed} --first {number} --count 1"
            print(f"FAULT {outcome.kind}: {outcome.fault!r}\n      {again}", flush=True)
        clear(folder)
    verdicts = sorted({verdict for _, verdict in table})
    width = max(len(kind) for kind, _ in table)
    print(f"{name:{width}} " + " ".join(f"{verdict:>12}" for verdict in verdicts))
    for kind in sorted({kind for kind, _ in table}):
        print(f"{kind:{width}} " + " ".join(f"{table[kind, verdict] or '':>12}" for verdict in verdicts))
    seconds = time.perf_counter() - start
    print(f"{count} attacks, {len(faults)} faults, {seconds:.0f} s, seed {seed}", flush=True)
    return {"campaign": name, "seed": seed, "count": count, "faults": faults, "seconds": round(seconds)}


def clear(folder: Path) -> None:
    """Delete a folder of which an attack may have taken the permissions."""
    import shutil

    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def damage_bytes(data: bytes, generator: random.Random) -> tuple[str, bytes]:
    """Damage a file's bytes in one of several ways; returns the way and the bytes."""
    way = generator.choice(["bit", "bit", "byte", "cut", "hole", "insert", "empty", "noise"])
    place = generator.randrange(len(data)) if data else 0
    if way == "bit" and data:
        return way, data[:place] + bytes([data[place] ^ 1 << generator.randrange(8)]) + data[place + 1 :]
    if way == "byte" and data:
        return way, data[:place] + bytes([generator.randrange(256)]) + data[place + 1 :]
    if way == "cut":
        return way, data[:place]
    if way == "hole":
        length = min(len(data) - place, generator.choice([1, 8, 64, 512]))
        return way, data[:place] + bytes(length) + data[place + length :]
    if way == "insert":
        return way, data[:place] + generator.randbytes(generator.choice([1, 7, 64])) + data[place:]
    return way, b"" if way == "empty" else generator.randbytes(max(1, min(len(data), 4096)))


def odd_values() -> list[Any]:
    """Return values that no record has."""
    numbers = [-1, 0, 1e308, float("nan"), float("inf"), 2**70]
    return [None, True, *numbers, "", "x", [], [1], {}, {"a": 1}, [[]], "9" * 500]


def damage_json(data: bytes, generator: random.Random) -> tuple[str, bytes]:
    """Replace a value somewhere in a JSON file, or the whole of it; returns the way and the bytes."""
    if generator.random() < 0.15:
        return "deep", b"[" * 100_000
    if generator.random() < 0.3:
        return "other value", json.dumps(generator.choice(odd_values())).encode()
    try:
        lines = data.splitlines(keepends=True)
        whole = not all(line.lstrip().startswith(b"{") for line in lines)
        at = 0 if whole else generator.randrange(len(lines))
        tree = json.loads(data if whole else lines[at])
    except (ValueError, IndexError):
        return damage_bytes(data, generator)
    way = _change(tree, generator)
    text = json.dumps(tree).encode()
    return way, text if whole else b"".join([*lines[:at], text + b"\n", *lines[at + 1 :]])


def _change(tree: Any, generator: random.Random) -> str:
    """Walk to a random place of a JSON value, and replace, drop or add there."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree))) if isinstance(tree, list) else []
        if not keys:
            return "nothing"
        key = generator.choice(keys)
        if isinstance(tree[key], dict | list) and tree[key] and generator.random() < 0.7:
            tree = tree[key]
            continue
        if generator.random() < 0.25:
            del tree[key]
            return "key gone"
        tree[key] = generator.choice(odd_values())
        return "other value"
