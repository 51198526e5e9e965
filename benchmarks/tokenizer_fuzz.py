# bench: cpu
"""Compare the tokens of preprocess with the reference's over generated tokenizers: do any differ silently?

    python -m benchmarks.tokenizer_fuzz --tokenizers 2000 --documents 200 --seed 0

Tokenizers are drawn by hypothesis: trained ones and random merges; with bytes missing, merges that come twice, words
made by two merges or by none, ids in another order, prefixes and suffixes, unknown tokens, byte fallback, digits apart
or together, other splits, normalizers, added tokens that overlap, span spaces or repeat words of the vocabulary,
saved limits, paddings and templates. Exit code 1: a document differs, although a fast path took it.
"""

import argparse
import itertools
import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, trainers

from benchmarks.exactness import CLASSES
from megatron_octo.common.errors import OctoError
from megatron_octo.data.text.tokenizer import Tokenizer

END = "<|endoftext|>"
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
LETTERS = "abcde"
SPLITS: list[Any] = [
    {"type": "Digits", "individual_digits": True},
    {"type": "Digits", "individual_digits": False},
    {"type": "Whitespace"},
    {"type": "Punctuation", "behavior": "Isolated"},
    {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}"}, "behavior": "Isolated", "invert": False},
    {"type": "Split", "pattern": {"String": "b"}, "behavior": "MergedWithPrevious", "invert": False},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True},
]
NORMALIZERS: list[Any] = [
    {"type": "NFC"},
    {"type": "Lowercase"},
    {"type": "Prepend", "prepend": "a"},
    {"type": "Replace", "pattern": {"String": "a"}, "content": "b"},
    {"type": "Strip", "strip_left": True, "strip_right": False},
    {"type": "Sequence", "normalizers": []},
]
CONTENTS = [
    END,
    "ab",
    "abc",
    "bc",
    "a b",
    " ",
    "  ",
    "\t",
    "1",
    "<x>",
    "<x>a",
    "é",
    "Ġa",
    "'s",
    "12",
    "ⅷ",
    "\n",
]


def byte_level(**flags: Any) -> dict[str, Any]:
    """Return GPT-2's split with other flags."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True, **flags}


def words(draw: random.Random, count: int) -> Iterator[str]:
    """Yield words over few letters, digits, signs and characters of several bytes."""
    pieces = [*LETTERS, *LETTERS, "1", "2", " ", "'s", "é", "中", "_", "\n"]
    for _ in range(count):
        yield "".join(draw.choices(pieces, k=draw.randint(1, 7)))


def trained(draw: random.Random) -> dict[str, Any]:
    """Train byte-level BPE on random words."""
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    whole = draw.random() < 0.8
    trainer = trainers.BpeTrainer(
        vocab_size=draw.choice([60, 260, 300, 400, 700]),
        special_tokens=[END],
        initial_alphabet=ALPHABET if whole else [],
        show_progress=False,
    )
    library.train_from_iterator(list(words(draw, 300)), trainer)
    found: dict[str, Any] = json.loads(library.to_str())
    found["model"]["merges"] = [list(merge) for merge in found["model"]["merges"]]
    return found


def merged(draw: random.Random) -> dict[str, Any]:
    """Merge random words of the vocabulary, deep over few letters, so that orders matter."""
    vocabulary = {symbol: number for number, symbol in enumerate(ALPHABET)}
    merges: list[list[str]] = []
    known = [*LETTERS, "Ġ", "1", "2"][: draw.randint(2, 8)]
    for _ in range(draw.randint(1, 60)):
        pair = [draw.choice(known), draw.choice(known)]
        whole = "".join(pair)
        if len(whole) > 12 or whole in vocabulary:
            continue
        vocabulary[whole] = len(vocabulary)
        known.append(whole)
        merges.append(pair)
    vocabulary[END] = len(vocabulary)
    end = {"id": vocabulary[END], "content": END, "special": True}
    end |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    model = {"type": "BPE", "dropout": None, "unk_token": None, "vocab": vocabulary, "merges": merges}
    return {
        "version": "1.0",
        **dict.fromkeys(("truncation", "padding", "normalizer", "post_processor")),
        "added_tokens": [end],
        "pre_tokenizer": byte_level(),
        "decoder": {**byte_level(), "add_prefix_space": True},
        "model": model,
    }


def renumber(tree: dict[str, Any], order: list[str]) -> None:
    """Give the words of the vocabulary ids in this order; the added tokens keep theirs in it."""
    ids = {word: number for number, word in enumerate(order)}
    tree["model"]["vocab"] = ids
    for token in tree["added_tokens"]:
        token["id"] = ids.get(token["content"], token["id"])


def change_model(tree: dict[str, Any], draw: random.Random, kind: str) -> None:
    """Make one structure of the vocabulary or of the merges that may not suit the fast library."""
    model = tree["model"]
    vocabulary, merges = model["vocab"], model["merges"]
    order = sorted(vocabulary, key=vocabulary.__getitem__)
    if kind == "missing byte":
        gone = draw.choice([*LETTERS, "1", "Ġ", "Ã", "Ċ", "ñ"])
        model["merges"] = [merge for merge in merges if gone not in "".join(merge)]
        renumber(tree, [word for word in order if gone not in word or word == END])
    elif kind == "shuffled merges":
        draw.shuffle(merges)
    elif kind == "merge twice" and merges:
        merges.insert(draw.randrange(len(merges) + 1), list(draw.choice(merges)))
    elif kind == "two ways" and merges:
        whole = "".join(draw.choice(merges))
        ways = [[whole[:cut], whole[cut:]] for cut in range(1, len(whole))]
        ways = [way for way in ways if way not in merges and all(part in vocabulary for part in way)]
        if ways:
            merges.insert(draw.randrange(len(merges) + 1), draw.choice(ways))
    elif kind == "unreachable":
        word = "".join(draw.choices([*LETTERS, "Ġ"], k=draw.randint(2, 5)))
        vocabulary.setdefault(word, len(vocabulary))
    elif kind == "lost merge" and merges:
        merges.remove(draw.choice(merges))
    elif kind == "other ids":
        draw.shuffle(order)
        renumber(tree, order)
    elif kind == "gap":
        vocabulary[order[-1]] += 1
    elif kind == "id twice":
        vocabulary[draw.choice(order)] = draw.randrange(len(order))
    elif kind == "options":
        options: list[tuple[str, list[Any]]] = [
            ("continuing_subword_prefix", ["", "##"]),
            ("end_of_word_suffix", ["", "</w>"]),
            ("unk_token", [END, "a", "<unk>"]),
            ("byte_fallback", [True, False]),
            ("ignore_merges", [True, False]),
            ("fuse_unk", [True, False]),
            ("dropout", [0.0]),
        ]
        key, values = draw.choice(options)
        model[key] = draw.choice(values)


def change_rest(tree: dict[str, Any], draw: random.Random, kind: str) -> None:
    """Change the split, the normalizer, the added tokens, or what is saved beside them."""
    if kind == "split":
        steps = draw.sample(SPLITS, draw.randint(0, 2))
        flags = draw.choice([{}, {}, {"use_regex": False}, {"add_prefix_space": True}, {"trim_offsets": False}])
        steps.append(byte_level(**flags))
        tree["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    elif kind == "digits":
        tree["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [SPLITS[0], byte_level()]}
    elif kind == "normalizer":
        tree["normalizer"] = draw.choice(NORMALIZERS)
    elif kind == "added":
        known = {token["content"] for token in tree["added_tokens"]}
        highest = max([*tree["model"]["vocab"].values(), *(token["id"] for token in tree["added_tokens"])])
        for number, content in enumerate(draw.sample(CONTENTS, draw.randint(1, 4))):
            if content in known:
                continue
            flags = {name: draw.random() < 0.3 for name in ("single_word", "lstrip", "rstrip", "normalized")}
            found = tree["model"]["vocab"].get(content, highest + 1 + number)
            token = {"id": found, "content": content, "special": draw.random() < 0.5, **flags}
            tree["added_tokens"].append(token)
    elif kind == "saved":
        tree["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
        tree["padding"] = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None}
        tree["padding"] |= {"pad_id": 1, "pad_type_id": 0, "pad_token": "a"}
    elif kind == "template":
        tree["post_processor"] = {**byte_level(), "add_prefix_space": True}


MODEL_CHANGES = ["missing byte", "shuffled merges", "merge twice", "two ways", "unreachable", "lost merge"]
MODEL_CHANGES += ["other ids", "gap", "id twice", "options"]
OTHER_CHANGES = ["split", "digits", "digits", "normalizer", "added", "added", "saved", "template"]


@st.composite
def descriptions(draw: st.DrawFn) -> tuple[dict[str, Any], random.Random, list[str]]:
    """Draw a ``tokenizer.json``, a source of documents, and the changes that were made."""
    source = random.Random(draw(st.integers(0, 2**32)))
    tree = draw(st.sampled_from([trained, merged, merged]))(source)
    made = draw(st.lists(st.sampled_from(MODEL_CHANGES), max_size=2))
    others = draw(st.lists(st.sampled_from(OTHER_CHANGES), max_size=2))
    for kind in made:
        change_model(tree, source, kind)
    for kind in others:
        change_rest(tree, source, kind)
    return tree, source, [*made, *others]


def documents(tree: dict[str, Any], draw: random.Random, count: int) -> Iterator[str]:
    """Yield documents of words of the vocabulary, letters that merge, added tokens and characters of all classes."""
    decode = {symbol: byte for byte, symbol in zip(_bytes(), _symbols())}
    vocabulary = [word for word in tree["model"]["vocab"] if set(word) <= set(decode)]
    added = [token["content"] for token in tree["added_tokens"]]

    def part() -> str:
        kind = draw.randrange(10)
        if kind < 3:
            word = draw.choice(vocabulary) if vocabulary else "a"
            return bytes(decode[symbol] for symbol in word).decode(errors="replace")
        if kind < 7:
            return "".join(draw.choices([*LETTERS, *LETTERS, "1", "2", " "], k=draw.randint(1, 9)))
        return draw.choice([*CLASSES, *added]) if kind < 9 else chr(draw.randrange(0x20, 0xD800))

    for _ in range(count):
        text = "".join(part() for _ in range(draw.randint(1, 12)))
        yield text * (1 if draw.random() < 0.98 else 40)


def _symbols() -> list[str]:
    from megatron_octo.data.text.inexpressible import byte_symbols

    return byte_symbols()


def _bytes() -> range:
    return range(256)


def check(tree: dict[str, Any], texts: list[str], folder: Path) -> tuple[str, list[str]]:
    """Return how a tokenizer was taken (``fast``, ``reference``, ``refused``), and the texts that differ."""
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(tree))
    try:
        tokenizer = Tokenizer(path, eod_token=END, backend="auto")
    except OctoError:
        return "refused", []
    if tokenizer.fast is None:
        return "reference", []
    ids, lengths = tokenizer.encode_flat(texts)
    rows = itertools.batched(ids.tolist(), 1)
    found = []
    for text, wanted, length in zip(texts, tokenizer.encode(texts), lengths.tolist()):
        if [token for (token,) in itertools.islice(rows, length)] != wanted:
            found.append(text)
    return "fast", found


def campaign(tokenizers: int, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Run so many tokenizers; returns how they were taken, and descriptions of the differences."""
    taken: Counter[str] = Counter()
    bad: list[str] = []

    with tempfile.TemporaryDirectory() as folder:

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=tokenizers,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(descriptions())
        def each(drawn: tuple[dict[str, Any], random.Random, list[str]]) -> None:
            tree, source, changes = drawn
            how, found = check(tree, list(documents(tree, source, count)), Path(folder))
            taken[how] += 1
            if found:
                bad.append(f"{changes}: {found[0]!r} and {len(found) - 1} more\n{json.dumps(tree)}")

        each()
    return taken, bad


def main() -> None:
    """Print how the tokenizers were taken and every difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizers", type=int, default=2000)
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    taken, bad = campaign(args.tokenizers, args.documents, args.seed)
    for each in bad[:20]:
        print(each)
    print(f"{sum(taken.values())} tokenizers x {args.documents} documents: {dict(taken)}; {len(bad)} differ")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
