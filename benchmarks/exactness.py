# bench: cpu
"""Compare the fast tokenizer with the reference on many texts, and decode every result.

    python -m benchmarks.exactness --tokenizer ../shared/data/starcoder_tokenizer.json --data ../shared/data

Texts: every string in every .jsonl.gz of ``--data``, the sources of Python's standard library, every code point in ten
surroundings, strings of up to three parts of every class, fuzzed strings (all planes, digits of all scripts, spelled
special tokens, spaces of all kinds), and lines of 10 MB. Exit code 1: a text differs.
"""

import argparse
import functools
import gzip
import itertools
import json
import random
import sysconfig
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import orjson

from megatron_octo.data.text.tokenizer import Tokenizer

CLASSES = (
    *("a", "12", " ", "\t", "\n", "\r", "'s", "'", "'re", "-"),
    *("é", "\xa0", "\u3000", "\x85", "\u2028", "\x1c"),
    *("\u0301", "ⅷ", "\x0b", "\x0c", "中", "٣", "Ⓐ", "😀", "\U0001d7d8", "<|endoftext|>", "\ufeff", "\u200d"),
)


def differences(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """Return the texts that the fast path encodes differently from the reference, or that decode differently.

    A vocabulary may lack some bytes (StarCoder's lacks some of planes 4 to 16): no library can keep these characters.
    """

    @functools.cache
    def lost(character: str) -> bool:
        return tokenizer.decode(tokenizer.encode([character])[0]) != character

    ids, lengths = tokenizer.encode_flat(texts)
    ends = np.cumsum(lengths)
    found = []
    for text, wanted, begin, end in zip(texts, tokenizer.encode(texts), ends - lengths, ends):
        if ids[begin:end].tolist() != wanted or (tokenizer.decode(wanted) != text and not any(map(lost, set(text)))):
            found.append(text)
    return found


def strings(value: object) -> Iterator[str]:
    """Yield every string of a JSON value, without the keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)


def rows_of(folder: Path) -> Iterator[str]:
    """Yield the strings of all rows of a folder's .jsonl.gz files."""
    for path in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(path) as file:
            for line in file:
                yield from strings(orjson.loads(line))


def library() -> Iterator[str]:
    """Yield the sources of Python's standard library."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" not in path.parts:
            yield path.read_text(errors="replace")


def code_points(step: int = 1) -> Iterator[str]:
    """Yield every code point in ten surroundings; of planes without characters every 50th."""
    for code in range(0, 0x110000, step):
        sign = chr(code)
        kind = unicodedata.category(sign)
        if kind == "Cs" or (kind in ("Cn", "Co") and code % 50 >= step):
            continue
        yield f"a{sign}b 1{sign}2 {sign} {sign}{sign}  {sign}'s\n{sign}\n\t {sign}-{sign}"


def short(length: int, classes: Sequence[str] = CLASSES) -> Iterator[str]:
    """Yield all products of up to ``length`` classes."""
    for size in range(length + 1):
        yield from map("".join, itertools.product(classes, repeat=size))


def fuzzed(count: int, special: Sequence[str], seed: int = 0) -> Iterator[str]:
    """Yield random strings of 1 to 400 parts, each through JSON, as rows come."""
    generator = random.Random(seed)
    digits = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code))[0] == "N"]
    words = ["self", "def", "x_1", "don't", "we'll", "0x1F", "3.14", "==", "{}", "//", "'tis", "", "\t\n"]
    words.append("\r\n")

    def part() -> str:
        kind = generator.randrange(8)
        if kind == 0:
            return chr(generator.choice([generator.randrange(0xD800), generator.randrange(0xE000, 0x110000)]))
        if kind == 1:
            return generator.choice(digits)
        if kind == 2 and special:
            return generator.choice(special)
        if kind <= 4:
            return generator.choice(CLASSES)
        return generator.choice(words) + generator.choice(["", " ", "\n"])

    for _ in range(count):
        text = "".join(part() for _ in range(generator.randint(1, 400)))
        yield orjson.loads(json.dumps(text))


def long_lines(special: Sequence[str]) -> Iterator[str]:
    """Yield lines of 10 MB: without a space, of spaces only, of fuzzed parts, of plain words."""
    size = 10_000_000
    yield "x" * size
    yield " " * size
    fuzz = "".join(fuzzed(200, special, seed=1))
    yield (fuzz * (size // len(fuzz) + 1))[:size]
    yield ("def add(a, b):\n\treturn 'sum' + a + b\n" * (size // 36))[:size]


def batches(texts: Iterator[str], characters: int = 4_000_000) -> Iterator[list[str]]:
    """Yield texts in lists of about so many characters."""
    batch, held = [], 0
    for text in texts:
        batch.append(text)
        held += len(text)
        if held >= characters:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def main() -> None:
    """Print a line per group of texts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--fuzz", type=int, default=20_000)
    args = parser.parse_args()
    tokenizer = Tokenizer(args.tokenizer, backend="tokie")
    special = tokenizer.control
    groups = {
        "data": rows_of(args.data) if args.data else iter(()),
        "standard library": library(),
        "short strings": short(3),
        "code points": code_points(),
        f"fuzzed {args.fuzz}": fuzzed(args.fuzz, special),
        "lines of 10 MB": long_lines(special),
    }
    total = 0
    for name, texts in groups.items():
        count = size = 0
        wrong: list[str] = []
        for batch in batches(texts):
            count, size = count + len(batch), size + sum(map(len, batch))
            wrong += differences(tokenizer, batch)
        total += len(wrong)
        examples = ": " + ", ".join(repr(text[:60]) for text in wrong[:5]) if wrong else ""
        print(f"{name}: {count:,} texts, {size:,} characters, {len(wrong)} differ{examples}", flush=True)
    raise SystemExit(bool(total))


if __name__ == "__main__":
    main()
