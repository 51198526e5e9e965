"""Compare ``commits filter --rules octopack`` with the scripts of OctoPack, run beside it, row by row.

    python -m benchmarks.commits_filter_reference --octopack CHECKOUT --tokenizer tokenizer.json [--rows FILE]
        [--made 2000] [--seed 0] [--plant-fault RULE]

The two scripts run as they are, on a stand-in for the ``datasets`` library that holds rows in lists, with two
changes: the list of languages that were done before is empty, and the unseeded draw is the one of this project.
Prints the number of rows, of kept ones and of differences, in decisions and in cleaned subjects; exits with 1 if there
are any.
"""
# bench: cpu

import argparse
import contextlib
import json
import os
import random
import re
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as HubTokenizer

from megatron_octo.commits.filters.command import Filter, Settings
from megatron_octo.commits.filters.second_rules import share_of
from megatron_octo.commits.filters.subject import word_lists
from megatron_octo.commits.rows import Row, read_rows
from megatron_octo.commits.tables.languages import languages, slug

SCRIPTS = ("dataset/commitpackft/commitpackft_filters1.py", "dataset/commitpackft/commitpackft_filters2.py")


class Rows(list[dict[str, Any]]):
    """What the scripts use of a data set."""

    current = ""

    def filter(self, keep: Callable[[dict[str, Any]], bool], num_proc: int = 1) -> "Rows":
        return Rows(each for each in self if self._at(each) and keep(each))

    def map(self, change: Callable[[dict[str, Any]], dict[str, Any]], num_proc: int = 1) -> "Rows":
        return Rows(change(dict(each)) for each in self)

    def select_columns(self, names: list[str]) -> "Rows":
        return Rows({name: each[name] for name in names} for each in self)

    def unique(self, name: str) -> list[str]:
        return sorted({each[name] for each in self})

    def to_json(self, path: str, **_: object) -> None:
        Path(path).write_text("".join(json.dumps(each) + "\n" for each in self))

    def _at(self, row: dict[str, Any]) -> bool:
        Rows.current = row["commit"]
        return True


def _load(kind: str, data_files: list[str], num_proc: int = 1) -> dict[str, Rows]:
    return {"train": Rows(json.loads(line) for path in data_files for line in Path(path).read_text().splitlines())}


class _Encoder:
    """What the scripts use of a tokenizer of transformers."""

    path = ""

    @classmethod
    def from_pretrained(cls, name: str) -> Callable[[str], dict[str, list[int]]]:
        tokenizer = HubTokenizer.from_file(cls.path)
        return lambda text: {"input_ids": tokenizer.encode(text, add_special_tokens=False).ids}


@contextlib.contextmanager
def stand_ins(tokenizer: str) -> Iterator[None]:
    """Put modules into the place of the libraries that the scripts import."""
    _Encoder.path = tokenizer
    made: dict[str, Any] = {
        name: types.ModuleType(name) for name in ("datasets", "huggingface_hub", "transformers", "random")
    }
    made["datasets"].load_dataset = _load
    made["huggingface_hub"].hf_hub_download = None
    made["transformers"].AutoTokenizer = _Encoder
    made["random"].random = lambda: 1 - share_of(Rows.current)
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def original(rows: list[Row], checkout: Path, tokenizer: str) -> dict[str, str]:
    """Run the scripts; returns the subjects of the rows that they keep, by commit."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for row in rows:
            path = folder / "data" / slug(row.lang or "") / "rows.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            fields = {**row.mapping(), "old_contents": row.old_contents or "", "new_contents": row.new_contents or ""}
            with path.open("a") as file:
                file.write(json.dumps(fields) + "\n")
        here = Path.cwd()
        os.chdir(folder)
        try:
            with stand_ins(tokenizer), contextlib.redirect_stdout(None):
                first = re.sub(r"DONE = \[[^\]]*\]", "DONE = []", (checkout / SCRIPTS[0]).read_text())
                exec(compile(first, SCRIPTS[0], "exec"), {"__name__": "first"})
                Path("data").rename("raw")
                Path("smallcommits_v2").rename("data")
                exec(compile((checkout / SCRIPTS[1]).read_text(), SCRIPTS[1], "exec"), {"__name__": "second"})
            found = [
                json.loads(line) for path in Path("data").glob("*/data.jsonl") for line in path.read_text().splitlines()
            ]
        finally:
            os.chdir(here)
    return {each["commit"]: each["subject"] for each in found}


PARTS = [
    "Fix", "fix", "Add", "Use", "Plug ", "Plug  the", "Bump", "Set version", "Update version", "Revert", "Update",
    "Merge branch", "the", "test", "of", "a", "parser", "for", "it", "I", "i'm", "MINI'VE", "swipe", "WIP:", "readme",
    "work in progress", "Thanks to", "code review", "issue 12", "bug12", "//codereview", "https://a.b", "| LeetCode",
    "cdpcp-1", "[skip ci]", "[ci skip]", "[core]", "core:", "[x]", "#12", "v1.2.3", "deadbeef", "0" * 40, "main",
    "signed-off-by", "cherry picked from commit", "\u0130", "\u00e9", "\t", "\n", "  ", "util", "auto commit",
    "put the thingie in the thingie",
]  # fmt: skip
CONTENTS = [
    "",
    "x = 1\n" * 30,
    "x = 2\n" * 30,
    "y\n" * 2000,
    "a" * 50_000,
    "<|endoftext|>" * 60,
    "<fim_prefix> b\n" * 40,
]


def made_rows(count: int, seed: int) -> Iterator[Row]:
    """Make rows at and beyond the edges of the rules; about a quarter of them pass all."""
    r = random.Random(seed)
    names, verbs = sorted(languages()), word_lists()["verbs"]
    for number in range(count):
        lang = r.choice(["Python", "Shell", "C", *r.sample(names, 12)])
        parts = ["with", "code", "tests", "in", "one", "place"][r.randrange(3) :]
        for _ in range(r.choice((0, 0, 1, 1, 2, 5))):
            parts.insert(r.randrange(len(parts) + 1), r.choice(PARTS))
        if r.random() < 0.85:
            parts.insert(0, r.choice(verbs).capitalize())
        old = r.choice(CONTENTS) if r.random() < 0.3 else CONTENTS[1]
        new = r.choice([old, *CONTENTS]) if r.random() < 0.3 else f"{old}z = {number}\n"
        ending = r.choice((".sh", ".test.js", "", "sh")) if r.random() < 0.1 else r.choice(languages()[lang])
        yield Row(
            f"{seed:08x}{number:032x}",
            new_file=r.choice(["a/", "", "b.c/"]) + r.choice(["main", "x_y.test", "a", "Makefile"]) + ending,
            old_contents=old,
            new_contents=new,
            subject=" ".join(parts) if r.random() < 0.95 else "x " * r.choice((4, 499, 500, 1000)),
            message="m",
            lang=lang,
            license="mit",
            repos="a/b",
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--octopack", type=Path, required=True, help="checkout of bigcode-project/octopack")
    parser.add_argument("--tokenizer", required=True, help="StarCoder's tokenizer.json")
    parser.add_argument("--rows", help="further rows")
    parser.add_argument("--made", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plant-fault", metavar="RULE", help="leave a rule out, so the comparison has to fail")
    arguments = parser.parse_args()
    wrong = 0
    sets = {"made": list(made_rows(arguments.made, arguments.seed))}
    if arguments.rows:
        sets["real"] = [row for row in read_rows(arguments.rows) if row.lang]
        # Of a language without a list of endings, so that the original's mistake there does not decide about most.
        sets["real as CSS"] = [replace(row, lang="CSS", signals={}) for row in sets["real"]]
    for name, rows in sets.items():
        wanted = original(rows, arguments.octopack, str(Path(arguments.tokenizer).resolve()))
        chosen = Filter(Settings("octopack", "starcoder", arguments.tokenizer))
        chosen._steps = [step for step in chosen._steps if step[0] != arguments.plant_fault]
        found = {row.commit: row.subject for row in map(chosen.apply, rows) if row.kept}
        differing = [commit for commit in {**wanted, **found} if wanted.get(commit) != found.get(commit)]
        wrong += len(differing)
        print(
            f"{name}: {len(rows):,} rows, original keeps {len(wanted):,}, ours {len(found):,}; {len(differing)} differ"
        )
        for commit in differing[:5]:
            print(f"  {commit}: original {wanted.get(commit)!r}, ours {found.get(commit)!r}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
