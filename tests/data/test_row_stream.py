import json
import threading
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megatron_octo.common.errors import OctoError
from megatron_octo.data.dataset.indexed import open_corpus
from megatron_octo.data.planning.paths import read_group
from megatron_octo.data.planning.settings import RowSettings
from megatron_octo.data.row_stream import Batch, Position, RowStream
from tests.data.dataset.test_indexed import Document, write


def tagged(shape: list[list[tuple[int, int]]]) -> list[Document]:
    """Documents whose tokens are all different: shape is (length, mode) of each sequence."""
    number, documents = 0, []
    for sequences in shape:
        document: Document = []
        for length, mode in sequences:
            document.append((list(range(number, number + length)), mode))
            number += length
        documents.append(document)
    return documents


def whole_epoch(stream: RowStream, epoch: int = 0) -> Batch:
    return stream.batch([(epoch, row) for row in range(stream.rows(epoch))])


def segments(batch: Batch) -> list[slice]:
    return [slice(a, b) for a, b in pairwise(batch.boundaries)]


def test_example_of_two_documents(tmp_path: Path) -> None:
    write(tmp_path / "p", [[([6, 7], 0), ([8], 1)], [([3, 4], 0), ([5], 1)]])
    stream = RowStream(
        read_group(f"x: 1 0:1 {tmp_path}/p"), RowSettings(seq_length=6, seed=0, cache_dir=tmp_path / "plans")
    )
    batch = stream.batch([(0, 0)])
    order = [6, 3] if batch.tokens[0] == 6 else [3, 6]
    assert batch.tokens.tolist() == [order[0], order[0] + 1, order[1], order[1] + 1, 0, 0]
    assert batch.labels.tolist() == [order[0] + 1, order[0] + 2, order[1] + 1, order[1] + 2, 0, 0]
    assert batch.positions.tolist() == [0, 1, 0, 1, 0, 1]
    assert batch.weights.tolist() == [0, 1, 0, 1, 0, 0]
    assert batch.boundaries.tolist() == [0, 2, 4, 6]
    assert (batch.targets, batch.used) == (2, 4)
    assert {batch.tokens.dtype, batch.labels.dtype, batch.positions.dtype} == {np.dtype(np.int64)}
    assert (batch.weights.dtype, batch.boundaries.dtype) == (np.float32, np.int32)
    full = RowStream(
        read_group(f"x: 1 0:1 {tmp_path}/p"),
        RowSettings(
            seq_length=6,
            seed=0,
            loss_on="all",
            cache_dir=tmp_path / "plans",
        ),
    ).batch([(0, 0)])
    assert full.weights.tolist() == [1, 1, 1, 1, 0, 0]


shapes = st.lists(
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 1)), min_size=1, max_size=4),
    min_size=1,
    max_size=25,
)


@pytest.mark.slow
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shapes, st.integers(4, 24), st.sampled_from(["targets", "all"]), st.booleans(), st.integers(0, 3))
def test_split_learns_every_label_exactly_once(
    tmp_path_factory: pytest.TempPathFactory,
    shape: list,
    seq_length: int,
    loss_on: str,
    norm: bool,
    epoch: int,
) -> None:
    folder = tmp_path_factory.mktemp("split")
    write(folder / "p", tagged(shape), 60000)
    corpus = open_corpus(folder / "p")
    expected: dict[int, float] = {}
    for number in range(len(corpus)):
        tokens, is_target = corpus.document(number)
        learned = [int(t) for t, target in zip(tokens[1:], is_target[1:]) if target or loss_on == "all"]
        expected |= {token: 1 / len(learned) if norm else 1.0 for token in learned}
    group = read_group(f"x: 1 0:1 {folder}/p")
    options = {"seq_length": seq_length, "seed": 3, "loss_on": loss_on, "norm_target_loss": norm}
    if not expected:
        with pytest.raises(OctoError, match="nothing to learn"):
            RowStream(group, RowSettings(cache_dir=folder / "plans", **options))
        return
    stream = RowStream(group, RowSettings(cache_dir=folder / "plans", **options))
    batch = whole_epoch(stream, epoch)
    learned = batch.weights > 0
    assert Counter(batch.labels[learned].tolist()) == Counter(expected.keys())
    for label, weight in zip(batch.labels[learned], batch.weights[learned]):
        assert weight == pytest.approx(expected[int(label)], rel=1e-6)
    rows = [(epoch, row) for row in range(stream.rows(epoch))]
    assert stream.weight(rows) == pytest.approx(float(batch.weights.sum(dtype=np.float64)), rel=1e-6)
    assert stream.weight(rows) == pytest.approx(sum(expected.values()), rel=1e-9)
    assert batch.targets == len(expected) == stream.summary(epoch)["targets"]
    assert batch.boundaries[0] == 0 and batch.boundaries[-1] == len(batch.tokens) == len(rows) * seq_length
    used = 0
    for part in segments(batch):
        # Inside a segment a label is the next token, and positions count from 0: no document sees another.
        assert batch.positions[part].tolist() == list(range(part.stop - part.start))
        assert part.start // seq_length == (part.stop - 1) // seq_length
        if batch.weights[part].any():
            assert np.array_equal(batch.labels[part], batch.tokens[part] + 1)
            used += part.stop - part.start
        else:
            assert part.stop % seq_length == 0 and not batch.tokens[part].any()
    assert used == batch.used
    assert stream.fill(epoch) == used / len(batch.tokens)


def test_targets_of_a_long_document_keep_their_context(tmp_path: Path) -> None:
    write(tmp_path / "p", tagged([[(15, 0), (6, 1)]]))
    stream = RowStream(
        read_group(f"x: 1 0:1 {tmp_path}/p"), RowSettings(seq_length=10, seed=0, cache_dir=tmp_path / "plans")
    )
    batch = whole_epoch(stream)
    assert batch.tokens.tolist() == list(range(10, 20))
    assert stream.summary(0)["skipped_positions_without_target"] == 10


def test_gaps_are_filled_with_documents_that_are_cut_anyway(tmp_path: Path) -> None:
    shape = [[(180, 1)] for _ in range(60)] + [[(256 * 40 + 1, 1)]]
    write(tmp_path / "p", tagged(shape), 65000)
    stream = RowStream(
        read_group(f"x: 1 0:1 {tmp_path}/p"),
        RowSettings(seq_length=256, seed=0, cache_dir=tmp_path / "plans"),
    )
    counts = stream.summary(0)
    # 60 rows miss 77 positions each: 18 of the 40 full rows fit there, cut in slices.
    assert counts["rows"] == 60 + 40 - 18
    assert counts["slices_cut_to_fill"] >= 60
    batch = whole_epoch(stream)
    assert Counter(batch.labels[batch.weights > 0].tolist()) == Counter(
        token for document in tagged(shape) for ids, _ in document for token in ids[1:]
    )


def test_overlong_skip_and_error(tmp_path: Path) -> None:
    write(tmp_path / "p", tagged([[(3, 0), (3, 1)], [(5, 0), (9, 1)], [(2, 1)]]))
    group = read_group(f"x: 1 0:1 {tmp_path}/p")
    stream = RowStream(group, RowSettings(seq_length=8, seed=0, overlong="skip", cache_dir=tmp_path / "plans"))
    counts = stream.summary(0)
    assert counts["documents"] == 2
    assert counts["skipped_overlong_documents"] == 1
    assert (counts["skipped_overlong_tokens"], counts["skipped_overlong_targets"]) == (14, 9)
    assert whole_epoch(stream).targets == 4
    with pytest.raises(OctoError, match="the first has 14 tokens, a row takes 9") as caught:
        RowStream(group, RowSettings(seq_length=8, seed=0, overlong="error", cache_dir=tmp_path / "plans"))
    assert caught.value.where == f"{tmp_path}/p, document 1"


def test_nothing_to_learn(tmp_path: Path) -> None:
    write(tmp_path / "p", tagged([[(5, 0)], [(1, 1)]]))
    for text, says in [("0:1", "nothing to learn"), ("0:0.1", "no documents in this range")]:
        with pytest.raises(OctoError, match=says):
            RowStream(
                read_group(f"x: 1 {text} {tmp_path}/p"),
                RowSettings(seq_length=8, seed=0, cache_dir=tmp_path / "plans"),
            )


def test_take_and_resume(tmp_path: Path) -> None:
    write(tmp_path / "p", tagged([[(3, 0), (4, 1)] for _ in range(17)]))
    stream = RowStream(
        read_group(f"x: 1 0:1 {tmp_path}/p"), RowSettings(seq_length=12, seed=0, cache_dir=tmp_path / "plans")
    )
    assert stream.rows(0) == 9
    taken, after = stream.take(Position(), 20)
    assert taken == [(0, r) for r in range(9)] + [(1, r) for r in range(9)] + [(2, 0), (2, 1)]
    assert after == Position(2, 2)
    first, middle = stream.take(Position(), 7)
    assert first + stream.take(middle, 13)[0] == taken
    again = RowStream(
        read_group(f"x: 1 0:1 {tmp_path}/p"), RowSettings(seq_length=12, seed=0, cache_dir=tmp_path / "other")
    )
    assert np.array_equal(again.batch(taken).tokens, stream.batch(taken).tokens)
    assert again.corpora_digest == stream.corpora_digest
    orders = [whole_epoch(stream, epoch).tokens.tolist() for epoch in (0, 1)]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"seq_length": 13}, {"overlong": "skip"}, {"loss_on": "all"}, {"norm_target_loss": True}],
)
def test_the_identity_of_the_rows(tmp_path: Path, change: dict) -> None:
    write(tmp_path / "p", tagged([[(3, 0), (4, 1)] for _ in range(5)]))
    group = read_group(f"x: 1 0:1 {tmp_path}/p")
    options = {"seq_length": 12, "seed": 0, "cache_dir": tmp_path / "plans"}
    assert (
        RowStream(group, RowSettings(**options)).corpora_digest
        != RowStream(group, RowSettings(**options | change)).corpora_digest
    )
    assert len(list((tmp_path / "plans").iterdir())) == 2


def test_ranges_are_honoured(tmp_path: Path) -> None:
    documents = tagged([[(2, 0), (3, 1)] for _ in range(40)])
    write(tmp_path / "p", documents)
    seen = []
    for bounds in ("0:0.95", "0.95:1"):
        group = read_group(f"x: 1 {bounds} {tmp_path}/p")
        batch = whole_epoch(RowStream(group, RowSettings(seq_length=9, seed=0, cache_dir=tmp_path / "plans")))
        seen.append({int(label) for label in batch.labels[batch.weights > 0]})
    assert not seen[0] & seen[1]
    assert seen[0] | seen[1] == {t for d in documents for ids, mode in d if mode for t in ids}


def test_blend(tmp_path: Path) -> None:
    """Weights 1:3 over equal data: b gives all each epoch, a a third, none twice before all once."""
    write(tmp_path / "a", tagged([[(1, 0), (10, 1)] for _ in range(30)]))
    write(tmp_path / "b", [[([9000 + i], 0), (list(range(9000 + i, 9010 + i)), 1)] for i in range(30)], 20000)
    group = read_group(f"x: 1 0:1 {tmp_path}/a, 3 0:1 {tmp_path}/b")
    stream = RowStream(group, RowSettings(seq_length=25, seed=0, cache_dir=tmp_path / "plans"))
    seen: Counter[int] = Counter()
    for epoch in range(6):
        batch = whole_epoch(stream, epoch)
        starts = Counter(int(batch.tokens[part.start]) for part in segments(batch) if batch.weights[part].any())
        of_a = {token: count for token, count in starts.items() if token < 9000}
        assert sum(of_a.values()) == 10
        assert sorted(token for token in starts if token >= 9000) == list(range(9000, 9030))
        seen.update(of_a)
        if epoch == 2:
            assert set(seen.values()) == {1} and len(seen) == 30
    assert set(seen.values()) == {2}


def test_processes_that_plan_at_once_agree(tmp_path: Path) -> None:
    write(tmp_path / "p", tagged([[(3, 0), (4, 1)] for _ in range(500)]))
    group = read_group(f"x: 1 0:1 {tmp_path}/p")
    start = threading.Barrier(8)
    streams: list[RowStream] = []

    def plan() -> None:
        start.wait()
        streams.append(RowStream(group, RowSettings(seq_length=12, seed=0, cache_dir=tmp_path / "plans")))

    threads = [threading.Thread(target=plan) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(streams) == 8
    assert len(list((tmp_path / "plans").iterdir())) == 1  # and no temporary directory is left
    batches = [whole_epoch(stream) for stream in streams]
    assert all(np.array_equal(batch.tokens, batches[0].tokens) for batch in batches)


@pytest.mark.parametrize("name", ["order.npy", "offsets.npy", "cuts.npy", "weights.npy", "plan.json"])
def test_a_damaged_plan_is_made_again(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "p", tagged([[(3, 0), (4, 1)] for _ in range(50)]))
    group = read_group(f"x: 1 0:1 {tmp_path}/p")
    RowStream(group, RowSettings(seq_length=12, seed=0, cache_dir=tmp_path / "plans"))
    (directory,) = (tmp_path / "plans").iterdir()
    path = directory / name
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    for bad in (good[:-9], bytes(flipped)):
        path.write_bytes(bad)
        RowStream(group, RowSettings(seq_length=12, seed=0, cache_dir=tmp_path / "plans"))
        assert f"damaged packing plan: {name}: " in capsys.readouterr().err
        assert path.read_bytes() == good
    path.unlink()
    path.mkdir()
    RowStream(group, RowSettings(seq_length=12, seed=0, cache_dir=tmp_path / "plans"))
    assert path.read_bytes() == good
    assert [other.name for other in (tmp_path / "plans").iterdir()] == [directory.name]


def manifest(prefix: Path, tokenizer: str, vocab_size: int, files: dict) -> None:
    content = {
        "format": 1, "version": "0", "documents": 0, "tokens": 0, "targets": 0, "skipped": {}, "notes": {},
        "tokenizer": {
            "path": "t", "digest": tokenizer, "vocab_size": vocab_size, "eod_id": 5, "eod_token": "<eos>"
        },
        "inputs": [],
        "outputs": {name: {"path": name, **found} for name, found in files.items()},
        "options": {},
    }  # fmt: skip
    Path(f"{prefix}.json").write_text(json.dumps(content))


def test_manifests(tmp_path: Path) -> None:
    for name, tokenizer, size in [("a", "t1", 90), ("b", "t1", 95), ("c", "t2", 80)]:
        files = write(tmp_path / name, tagged([[(3, 0), (4, 1)]]))
        manifest(tmp_path / name, tokenizer, size, files)
    write(tmp_path / "none", tagged([[(3, 0), (4, 1)]]))

    def stream(*names: str) -> RowStream:
        sources = ", ".join(f"1 0:1 {tmp_path}/{name}" for name in names)
        return RowStream(read_group(f"x: {sources}"), RowSettings(seq_length=9, seed=0, cache_dir=tmp_path / "plans"))

    assert (stream("a", "b").tokenizer_digest, stream("a", "b").vocab_size) == ("t1", 95)
    assert (stream("none").tokenizer_digest, stream("none").vocab_size) == (None, None)
    assert stream("a").batch([(0, 0)]).tokens.tolist() == [
        0,
        1,
        2,
        3,
        4,
        5,
        5,
        5,
        5,
    ]
    with pytest.raises(OctoError, match="2 different tokenizers"):
        stream("a", "c")
    write(tmp_path / "a", tagged([[(3, 0), (5, 1)]]))
    with pytest.raises(OctoError, match="the manifest belongs to another index"):
        stream("a")
