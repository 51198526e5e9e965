"""Compare ``commits oasst`` and ``commits xp3x`` with the scripts of OctoPack, run beside them.

    python -m benchmarks.commits_oasst_reference --octopack CHECKOUT [--made 5000] [--seed 0] [--plant-fault]

The scripts run as they are: filter_oasst.py on a stand-in for the ``datasets`` library, count_languages.py on a file of
messages, filter_xp3x.py in a folder of made files. Prints how many dialogues the phrases drop, the languages of code
blocks and the files that rows were drawn from, with the number of differences; exits with 1 if there are any. The rows
that are drawn differ, since the original draws them by their places.
"""
# bench: cpu

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from megatron_octo.commits.__main__ import main as commits
from megatron_octo.commits.sources.code_language import code_language
from megatron_octo.commits.sources.oasst import Maker, Settings, phrases
from megatron_octo.commits.sources.xp3x import counts
from megatron_octo.commits.tables.languages import languages

OASST, LANGUAGES, XP3X = "dataset/oasst/filter_oasst.py", "dataset/oasst/count_languages.py", "dataset/xp3x"
_WORDS = [
    "the",
    "a",
    "code",
    "of",
    "bia-free",
    "İ",
    "é",
    "write",
    "compl",
    "python",
    "ethic",
    "fine",
    "ok",
    "it",
    "is",
    "to",
    "note",
    "ESG",
    "sorry",
    "I",
    "an",
    "am",
]


class Dialogues(list[dict[str, Any]]):
    """What filter_oasst.py uses of a data set."""

    def map(self, change: Callable[[dict[str, Any]], dict[str, Any]], num_proc: int) -> "Dialogues":
        return Dialogues(change(each) for each in self)

    def filter(self, keep: Callable[[dict[str, Any]], bool], num_proc: int) -> "Dialogues":
        return Dialogues(each for each in self if keep(each))

    def remove_columns(self, names: list[str]) -> "Dialogues":
        return self


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    here, words = Path.cwd(), sys.argv
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(None):
            yield
    finally:
        os.chdir(here)
        sys.argv = words


def _run(path: Path, **names: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"__name__": "script", **names}
    exec(compile(path.read_text(), str(path), "exec"), found)
    return found


def made_dialogues(count: int, seed: int) -> list[dict[str, Any]]:
    """Make dialogues of some words, about half of them with a phrase in some case, across messages in some."""
    r = random.Random(seed)
    found = []
    for number in range(count):
        words = [r.choice(_WORDS) for _ in range(r.randrange(4, 24))]
        if r.random() < 0.6:
            phrase = r.choice(phrases())
            phrase = r.choice([phrase, phrase.upper(), phrase.lower(), phrase.swapcase(), phrase[1:], phrase[:-1]])
            words[r.randrange(len(words))] = phrase
        cut = r.randrange(1, len(words))
        parts = [words[:cut], words[cut:], *([[r.choice(phrases())]] if r.random() < 0.02 else [])]
        roles = ("user", "assistant", "user")
        messages = [{"role": role, "content": " ".join(part)} for role, part in zip(roles, parts, strict=False)]
        found.append({"number": number, "messages": messages})
    return found


def compare_phrases(checkout: Path, rows: list[dict[str, Any]], fault: bool) -> int:
    """Compare which dialogues stay; returns the differences."""
    module: Any = types.ModuleType("datasets")
    module.load_dataset = lambda name: Dialogues(dict(each) for each in rows)
    before = sys.modules.get("datasets")
    sys.modules["datasets"] = module
    try:
        wanted = {each["number"] for each in _run(checkout / OASST)["ds"]}
    finally:
        del sys.modules["datasets"]
        if before is not None:
            sys.modules["datasets"] = before
    make = Maker(Settings(phrases()[:-1] if fault else phrases()))
    found = {each["number"] for each in rows if make(each).drop != "phrase"}
    wrong = len(wanted ^ found)
    print(f"phrases: {len(rows):,} dialogues, original keeps {len(wanted):,}, ours {len(found):,}; {wrong} differ")
    return wrong


def made_answers(count: int, seed: int) -> list[str]:
    """Make answers with code fences, good and bad ones."""
    r = random.Random(seed)
    known = [*languages(), "py", "sh", "terminal", "git", "html<", "import x", "let a", "c", "wolfram", "vim", "xyz"]
    ends = ["\n", "\nx\n", "", " \n", "x\n", ".\n", ":\n", "*\n", "`\n"]
    found = []
    for _ in range(count):
        fence = "" if r.random() < 0.1 else r.choice(["```", "``` ", "````", "\n```"])
        word = r.choice([str.lower, str.upper, str.title])(r.choice(known))
        found.append(f"{r.choice(_WORDS)} {fence}{word}{r.choice(ends)}x = 1\n```\n```python\n")
    return found


def compare_languages(checkout: Path, texts: list[str]) -> int:
    """Compare the languages of answers; returns the differences."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "dataset" / "oasst"
        folder.mkdir(parents=True)
        (folder / "rows.jsonl").write_text(
            "".join(json.dumps({"role": "assistant", "text": each}) + "\n" for each in texts)
        )
        table = (checkout / "dataset/commitpack/programming_languages.json").read_text()
        for place in (folder, folder.parent, folder.parent / "commitpack"):
            place.mkdir(exist_ok=True)
            (place / "programming_languages.json").write_text(table)
        with _inside(folder):
            sys.argv = ["count_languages.py", "rows.jsonl"]
            get = _run(checkout / LANGUAGES)["get_code"]
            wanted = [get(text) or None for text in texts]
    found = [code_language(text) for text in texts]
    wrong = sum(bool(one != (other and other.lower())) for one, other in zip(wanted, found, strict=True))
    known = sum(each is not None for each in found)
    print(f"code blocks: {len(texts):,} answers, {known:,} with a language; {wrong} differ")
    return wrong


def compare_draws(checkout: Path) -> int:
    """Compare how many rows come from each file and the texts that are replaced; returns the differences."""
    with tempfile.TemporaryDirectory() as name:
        folder, ours = Path(name) / "files", Path(name) / "ours.jsonl"
        folder.mkdir()
        endings = ("Here is a solution in Python:", "This can be solved in Python with the following code:")
        for file, count in counts().items():
            rows = ({"inputs": f"{file} {i} {endings[i % 2]}", "targets": str(i)} for i in range(2 * count))
            (folder / file).write_text("".join(json.dumps(each) + "\n" for each in rows))
        with _inside(folder):
            script = next((checkout / XP3X).glob("*.py")).resolve()
            _run(script)
            wanted = [json.loads(line) for line in (folder / "xp3x_code_5k.jsonl").read_text().splitlines()]
            (folder / "xp3x_code_5k.jsonl").unlink()
            commits(["xp3x", str(folder), "--output", str(ours), "--jobs", "1"])
        found = [json.loads(line) for line in ours.read_text().splitlines()]
    endings_of = [Counter(_shape(each["inputs"]) for each in rows) for rows in (wanted, found)]
    files = [Counter(each["inputs"].split(" ")[0] for each in rows) for rows in (wanted, found)]
    wrong = sum(((files[0] - files[1]) + (files[1] - files[0])).values()) + len(
        endings_of[0].keys() ^ endings_of[1].keys()
    )
    print(
        f"xp3x: {len(wanted):,} rows of {len(files[0])} files, ours {len(found):,} of {len(files[1])}; {wrong} differ"
    )
    return wrong


def _shape(text: str) -> tuple[bool, str]:
    return "mbpp" in text, text.split(" ", 2)[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--octopack", type=Path, required=True, help="checkout of bigcode-project/octopack")
    parser.add_argument("--made", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plant-fault", action="store_true", help="leave the last phrase out: it has to fail")
    arguments = parser.parse_args()
    checkout = arguments.octopack.resolve()
    wrong = compare_phrases(checkout, made_dialogues(arguments.made, arguments.seed), arguments.plant_fault)
    wrong += compare_languages(checkout, made_answers(arguments.made, arguments.seed))
    wrong += compare_draws(checkout)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
