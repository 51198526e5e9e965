"""Fill in the middle: nothing is lost, rates are kept, and nothing but (seed, epoch, document) decides."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_octo.common.errors import OctoError
from megatron_octo.data.planning.fim import SPELLINGS, Fim, FimTokens, find_tokens, rejoin
from megatron_octo.data.planning.paths import read_group
from megatron_octo.data.planning.settings import RowSettings
from megatron_octo.data.row_stream import RowStream
from tests.data.conftest import train_tokenizer
from tests.data.dataset.test_indexed import Document, write
from tests.data.test_row_stream import whole_epoch

TOKENS = FimTokens(prefix=1, suffix=3, middle=2, eod=0)
bodies = st.lists(st.integers(10, 60000), max_size=60)


@settings(max_examples=300, deadline=None)
@given(bodies, st.booleans(), st.floats(0, 1), st.integers(0, 2**40), st.integers(0, 5))
def test_joined_pieces_are_the_document(body: list[int], end: bool, spm: float, document: int, epoch: int) -> None:
    ids = np.array([*body, 0] if end else body, np.int32)
    fim = Fim(1.0, spm, TOKENS, (7, epoch, "digest"))
    made = fim.apply(ids, document)
    assert len(made) == len(ids) + 3 and made.dtype == ids.dtype
    assert rejoin(made, TOKENS).tolist() == ids.tolist()
    assert fim.apply(ids, document).tolist() == made.tolist()
    assert sorted(made.tolist()) == sorted([*ids.tolist(), 1, 2, 3])
    if end:
        assert made[-1] == 0
    # PSM: prefix, suffix, middle; SPM: the suffix mark follows at once, and prefix and middle stand together.
    assert (made[1] == 3) or int(np.argmax(made == 3)) < int(np.argmax(made == 2))


def test_rates_and_cuts() -> None:
    documents = np.arange(40000)
    for rate in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert abs(Fim(rate, 0.5, TOKENS, (1,)).chosen(documents).mean() - rate) < 0.01
    fim = Fim(0.5, 0.25, TOKENS, (1, 0, "x"))
    ids = np.arange(100, 120, dtype=np.int32)
    kinds, firsts = Counter(), Counter()
    for document in range(4000):
        firsts[int(np.argmax(fim.apply(ids, document) == 3)) - 1] += 1
        # Of a long document, where an empty prefix is rare: with one, both orders are the same.
        kinds["spm" if fim.apply(np.arange(100, 1100), document)[1] == 3 else "psm"] += 1
    assert abs(kinds["spm"] / 4000 - 0.25) < 0.03
    assert set(firsts) == set(range(21))  # every cut may come, the ends too
    assert firsts[1] > firsts[10] > firsts[19]  # the smaller of two uniform draws


def test_seed_epoch_and_data_set_decide() -> None:
    documents = np.arange(2000)
    chosen = [Fim(0.5, 0.5, TOKENS, key).chosen(documents) for key in [(1, 0), (1, 1), (2, 0), (1, 0)]]
    assert np.array_equal(chosen[0], chosen[3])
    for other in chosen[1:3]:
        assert 0.4 < (chosen[0] == other).mean() < 0.6
    # One document at a time gives what all at once give.
    assert [bool(Fim(0.5, 0.5, TOKENS, (1, 0)).chosen(documents[i : i + 1])[0]) for i in range(50)] == chosen[0][
        :50
    ].tolist()


@pytest.mark.parametrize("names", SPELLINGS)
def test_spellings(names: tuple[str, str, str]) -> None:
    control = {"<|endoftext|>": 0, **{name: 5 + place for place, name in enumerate(names)}}
    assert find_tokens(control, 0, "t") == FimTokens(prefix=5, suffix=6, middle=7, eod=0)


def corpus(prefix: Path, lengths: list[int], inputs: int = 0) -> list[Document]:
    """Documents of tokens from 10 on that end with 0; marked as pretraining text if they have no input."""
    documents: list[Document] = []
    number = 10
    for length in lengths:
        ids = [*range(number, number + length - 1), 0]
        documents.append([(ids[:inputs], 0), (ids[inputs:], 1)] if inputs else [(ids, 1)])
        number += length
    files = write(prefix, documents, 60000)
    content = {
        "format": 1, "version": "0", "documents": 0, "tokens": 0, "targets": 0, "skipped": {}, "notes": {},
        "tokenizer": {
            "path": "t", "digest": "t", "vocab_size": 60000, "eod_id": 0, "eod_token": "<|endoftext|>",
            "control": {"<|endoftext|>": 0, "<fim_prefix>": 1, "<fim_middle>": 2, "<fim_suffix>": 3},
        },
        "inputs": [], "outputs": {name: {"path": name, **found} for name, found in files.items()},
        "options": {"format": "finetune" if inputs else "text"},
    }  # fmt: skip
    Path(f"{prefix}.json").write_text(json.dumps(content))
    return documents


def stream(folder: Path, names: str = "p", cache: str = "plans", **options: object) -> RowStream:
    sources = ", ".join(f"1 0:1 {folder}/{name}" for name in names)
    settings = {"seq_length": 64, "seed": 1, "fim_rate": 0.5, "fim_spm_rate": 0.5, **options}
    return RowStream(read_group(f"x: {sources}"), RowSettings(cache_dir=folder / cache, **settings))


def held(rows: RowStream, epoch: int) -> dict[tuple[int, int], list[int]]:
    """Tokens of each document of an epoch that stayed whole."""
    return {
        (s.source, s.document): s.tokens.tolist() for row in range(rows.rows(epoch)) for s in rows.segments(epoch, row)
    }


def test_rows(tmp_path: Path) -> None:
    """Lengths in the plan are those of the rows; each document is there, in its order or in another."""
    documents = corpus(tmp_path / "p", np.random.default_rng(0).integers(2, 60, 400).tolist())
    rows = stream(tmp_path)
    orders = []
    for epoch in (0, 1):
        found = held(rows, epoch)
        assert sorted(document for _, document in found) == list(range(400))
        for (_, document), tokens in found.items():
            assert rejoin(np.array(tokens), TOKENS).tolist() == documents[document][0][0]
        batch, counts = whole_epoch(rows, epoch), rows.summary(epoch)
        changed = sum(tokens[0] == 1 for tokens in found.values())
        assert counts["fim_documents"] == changed and 150 < changed < 250
        assert (counts["positions"], counts["targets"]) == (batch.used, batch.targets)
        everything = [(epoch, row) for row in range(rows.rows(epoch))]
        assert rows.weight(everything) == batch.weights.sum()
        orders.append(found)
    assert sum(orders[0][key] != orders[1][key] for key in orders[0]) > 200
    # Another packing, another place for the plans, a restart: the same orders.
    assert held(stream(tmp_path, cache="other", seq_length=200), 1) == orders[1]


@pytest.mark.parametrize(
    ("mode", "expected"), [("split", 3), ("window", 3), ("truncate", 3), ("skip", 1), ("error", 0)]
)
def test_documents_that_no_longer_fit(tmp_path: Path, mode: str, expected: int) -> None:
    """63 positions fit a row of 64, 66 do not."""
    corpus(tmp_path / "p", [20, 64, 65])
    if mode == "error":
        with pytest.raises(OctoError, match="2 documents are longer than a row; the first has 67 tokens"):
            stream(tmp_path, fim_rate=1.0, overlong=mode)
        return
    rows = stream(tmp_path, fim_rate=1.0, overlong=mode)
    counts, batch = rows.summary(0), whole_epoch(rows)
    assert counts["documents"] == expected
    assert (counts["positions"], counts["targets"]) == (batch.used, batch.targets)
    learned = batch.labels[batch.weights > 0]
    if mode in ("split", "window"):  # every label once: all tokens and marks but the first mark
        assert len(learned) == 22 + 66 + 67
    elif mode == "truncate":
        assert len(learned) == 22 + 64 + 64
        assert counts["truncated_tokens"] == counts["truncated_targets"] == 2 + 3
    else:
        assert counts["skipped_overlong_documents"] == 2


def test_off_for_fine_tuning(tmp_path: Path) -> None:
    corpus(tmp_path / "p", [30] * 50)
    corpus(tmp_path / "q", [31] * 50, inputs=4)
    mixed = held(stream(tmp_path, "pq", fim_rate=1.0), 0)
    assert {source for (source, _), tokens in mixed.items() if tokens[0] == 1} == {0}
    with pytest.raises(OctoError, match="no data set of this group is pretraining text"):
        stream(tmp_path, "q")
    # A blend draws the same documents with and without.
    assert set(mixed) == set(held(stream(tmp_path, "pq", fim_rate=0.0), 0))


def test_tokens_from_the_tokenizer_file(tmp_path: Path) -> None:
    """A data set of another tool has no manifest, and no modes if it is pretraining text."""
    corpus(tmp_path / "p", [30] * 20)
    Path(f"{tmp_path}/p.json").unlink()
    index = (tmp_path / "p.idx").read_bytes()
    (tmp_path / "p.idx").write_bytes(index[:-20])
    names = ["<|endoftext|>", "<fim-prefix>", "<fim-middle>", "<fim-suffix>"]
    tokenizer = train_tokenizer(tmp_path / "t.json", names)
    assert any(tokens[0] == 1 for tokens in held(stream(tmp_path, tokenizer=tokenizer), 0).values())
    with pytest.raises(OctoError, match="nothing says which tokens"):
        stream(tmp_path)
    plain = train_tokenizer(tmp_path / "u.json", names[:2])
    with pytest.raises(OctoError, match="no tokens for fill in the middle") as caught:
        stream(tmp_path, tokenizer=plain)
    assert caught.value.where == str(plain)
