"""Documents longer than a row: every rule against a slow reading of what its rows hold."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megatron_octo.data.dataset.indexed import open_corpus
from megatron_octo.data.planning.paths import read_group
from megatron_octo.data.planning.settings import RowSettings
from megatron_octo.data.row_stream import RowStream
from tests.data.dataset.test_indexed import write
from tests.data.test_row_stream import segments, tagged, whole_epoch

shapes = st.lists(
    st.lists(st.tuples(st.integers(1, 70), st.integers(0, 1)), min_size=1, max_size=4),
    min_size=1,
    max_size=20,
)


def learnable(shape: list[list[tuple[int, int]]]) -> bool:
    return any(mode and (length > 1 or place) for doc in shape for place, (length, mode) in enumerate(doc))


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shapes.filter(learnable), st.integers(4, 40), st.booleans(), st.integers(0, 2))
def test_windows(
    tmp_path_factory: pytest.TempPathFactory, shape: list, seq_length: int, norm: bool, epoch: int
) -> None:
    """Each target once; the input in front of every window; every learned label behind what is before it."""
    folder = tmp_path_factory.mktemp("windows")
    write(folder / "p", tagged(shape), 60000)
    corpus = open_corpus(folder / "p")
    group = read_group(f"x: 1 0:1 {folder}/p")
    stream = RowStream(
        group,
        RowSettings(
            seq_length=seq_length,
            seed=3,
            overlong="window",
            norm_target_loss=norm,
            cache_dir=folder / "plans",
        ),
    )
    learned: Counter[int] = Counter()
    weight: Counter[int] = Counter()
    for row in range(stream.rows(epoch)):
        held = stream.segments(epoch, row)
        assert sum(len(segment.weights) for segment in held) <= seq_length
        for segment in held:
            tokens, is_target = corpus.document(segment.document)
            start, inputs = int(tokens[0]), int(np.argmax(is_target))
            places, size, context = segment.tokens - start, len(segment.weights), segment.context
            labels = places[1:][segment.weights > 0]
            assert is_target[labels].all() and len(labels)
            assert (places[:-1][segment.weights > 0] == labels - 1).all()
            learned.update((labels + start).tolist())
            weight[segment.document] += float(segment.weights.sum(dtype=np.float64))
            if len(tokens) - 1 <= seq_length:
                assert places.tolist() == list(range(len(tokens)))
            elif inputs and places[context] >= inputs:  # a later window: the input, then what was before
                assert min(inputs, size // 2) <= context <= min(inputs, seq_length // 2)
                head = context if context == inputs else -(-context // 2)
                expected = [*range(head), *range(inputs - (context - head), inputs)]
                assert places[:context].tolist() == expected
            elif inputs:  # the first window begins at the first target
                assert places[0] == 0 or context == 0
                assert places[context] == inputs - 1
            assert (np.diff(places[context:]) == 1).all()
    expected_labels = [
        int(token)
        for number in range(len(corpus))
        for token, target in zip(*(part[1:] for part in corpus.document(number)))
        if target
    ]
    assert learned == Counter(expected_labels)
    if norm:
        assert all(total == pytest.approx(1, rel=1e-5) for total in weight.values())
    batch = whole_epoch(stream, epoch)
    for part in segments(batch):
        assert batch.positions[part].tolist() == list(range(part.stop - part.start))
    rows = [(epoch, row) for row in range(stream.rows(epoch))]
    assert stream.weight(rows) == pytest.approx(float(batch.weights.sum(dtype=np.float64)), rel=1e-5)
    counts = stream.summary(epoch)
    assert (counts["targets"], counts["positions"]) == (batch.targets, batch.used)


def test_an_example(tmp_path: Path) -> None:
    """16 positions: 8 for the input, 2 for the overlap, 6 for what is learned."""
    write(tmp_path / "p", tagged([[(12, 0), (20, 1)]]))
    stream = RowStream(
        read_group(f"x: 1 0:1 {tmp_path}/p"),
        RowSettings(
            seq_length=16,
            seed=0,
            overlong="window",
            cache_dir=tmp_path / "plans",
        ),
    )
    windows = sorted(
        (s.tokens.tolist() for row in range(stream.rows(0)) for s in stream.segments(0, row)),
        key=lambda window: window[-1],
    )
    cut = [0, 1, 2, 3]  # the middle of the input is left out, in the first window up to its last token
    assert windows[0] == [*cut, 7, 8, 9, 10, *range(11, 20)]
    assert windows[1] == [*cut, 8, 9, 10, 11, *range(17, 26)]
    assert windows[2][:8] == [*cut, 8, 9, 10, 11] and windows[2][-1] == 31
    counts = stream.summary(0)
    assert counts["windowed_documents"] == 1
    assert counts["window_input_tokens_cut"] == 3
    assert counts["targets"] == 20


def test_window_of_text_is_split(tmp_path: Path) -> None:
    write(tmp_path / "p", tagged([[(100, 1)], [(5, 0), (100, 1)]]))
    group = read_group(f"x: 1 0:1 {tmp_path}/p")
    kinds = {
        (mode, loss): RowStream(
            group,
            RowSettings(seq_length=32, seed=0, overlong=mode, loss_on=loss, cache_dir=tmp_path / "plans"),
        )
        for mode in ("window", "split")
        for loss in ("targets", "all")
    }
    assert kinds["window", "targets"].summary(0)["split_documents"] == 1
    assert kinds["window", "targets"].summary(0)["windowed_documents"] == 1
    # With loss_on: all nothing is context, and nothing is repeated.
    everything = [whole_epoch(kinds[mode, "all"]).labels.tolist() for mode in ("window", "split")]
    assert everything[0] == everything[1]


@pytest.mark.parametrize("norm", [False, True])
def test_truncate_keeps_the_head(tmp_path: Path, norm: bool) -> None:
    write(tmp_path / "p", tagged([[(3, 0), (3, 1)], [(5, 0), (9, 1)], [(12, 0), (4, 1)], [(20, 1)]]))
    stream = RowStream(
        read_group(f"x: 1 0:1 {tmp_path}/p"),
        RowSettings(
            seq_length=8,
            seed=0,
            overlong="truncate",
            norm_target_loss=norm,
            cache_dir=tmp_path / "plans",
        ),
    )
    found = {
        s.document: (s.tokens.tolist(), float(s.weights.sum()))
        for row in range(stream.rows(0))
        for s in stream.segments(0, row)
    }
    assert found[1] == (list(range(6, 15)), pytest.approx(1 if norm else 4))
    assert found[3] == (list(range(36, 45)), pytest.approx(1 if norm else 8))
    assert sorted(found) == [0, 1, 3]  # the head of document 2 has nothing to learn
    counts = stream.summary(0)
    assert (counts["truncated_documents"], counts["truncated_tokens"]) == (3, 5 + 7 + 11)
    assert counts["truncated_targets"] == 5 + 4 + 11
    assert counts["skipped_pieces_without_target"] == 1


@pytest.mark.parametrize("mode", ["split", "window"])
@pytest.mark.parametrize("seq_length", [2048, 8192])
def test_rows_are_full(tmp_path: Path, mode: str, seq_length: int) -> None:
    """Lengths like those of commits, one in three longer than a row of 2048."""
    generator = np.random.default_rng(0)
    documents = []
    for length in generator.lognormal(7.5, 1.0, 4000).astype(int):
        cut = max(length // 2, 1)
        documents.append([(np.ones(cut, int), 0), (np.ones(length + 1, int), 1)])
    write(tmp_path / "p", documents)
    stream = RowStream(
        read_group(f"x: 1 0:1 {tmp_path}/p"),
        RowSettings(
            seq_length=seq_length,
            seed=0,
            overlong=mode,
            cache_dir=tmp_path / "plans",
        ),
    )
    assert stream.fill(0) >= 0.999
    assert stream.summary(0)["targets"] == open_corpus(tmp_path / "p").document_targets().sum()


def test_blend_gives_windows_of_a_document_together(tmp_path: Path) -> None:
    write(tmp_path / "a", tagged([[(4, 0), (60, 1)] for _ in range(10)]), 60000)
    write(tmp_path / "b", tagged([[(4, 0), (60, 1)] for _ in range(10)]), 60000)
    stream = RowStream(
        read_group(f"x: 1 0:1 {tmp_path}/a, 2 0:1 {tmp_path}/b"),
        RowSettings(
            seq_length=32,
            seed=0,
            overlong="window",
            norm_target_loss=True,
            cache_dir=tmp_path / "plans",
        ),
    )
    for epoch in range(3):
        weight: Counter[tuple[int, int]] = Counter()
        for row in range(stream.rows(epoch)):
            for segment in stream.segments(epoch, row):
                weight[segment.source, segment.document] += float(segment.weights.sum())
        assert all(total == pytest.approx(1, rel=1e-5) for total in weight.values())
        assert Counter(source for source, _ in weight) == {0: 5, 1: 10}


def test_edges_of_rows_do_not_matter_to_pairs(tmp_path: Path) -> None:
    """The older pair of files gives the same windows as one file with modes."""
    shape = [[(9, 0), (50, 1)], [(40, 0), (30, 1)], [(3, 0), (4, 1)]]
    write(tmp_path / "p", tagged(shape), 60000)
    for name, mode in (("inputs", 0), ("targets", 1)):
        part = [[(ids, 1) for ids, kind in document if kind == mode] for document in tagged(shape)]
        write(tmp_path / f"q_{name}_document", part, 60000)
    batches = [
        whole_epoch(
            RowStream(
                read_group(f"x: 1 0:1 {tmp_path}/{name}"),
                RowSettings(
                    seq_length=24,
                    seed=0,
                    overlong="window",
                    cache_dir=tmp_path / "plans",
                ),
            )
        )
        for name in "pq"
    ]
    for name in ("tokens", "labels", "positions", "weights", "boundaries"):
        assert np.array_equal(getattr(batches[0], name), getattr(batches[1], name)), name
    assert all(a <= b for a, b in pairwise(batches[0].boundaries))
