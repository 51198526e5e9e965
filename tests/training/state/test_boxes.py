"""A gated MLP's first matrix is cut in two places: saved, resharded and read under every tensor parallelism."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from megatron_octo.architectures.base import ParameterSpec
from megatron_octo.checkpoint.reader import CheckpointReader
from megatron_octo.conversion.readers.open_weights import open_weights
from megatron_octo.conversion.writers.to_checkpoint import write_checkpoint
from megatron_octo.recipe.loading import load_recipe
from megatron_octo.recipe.schema import Recipe
from tests.architectures.variants import VARIANTS, known
from tests.distributed import run_ranks
from tests.training.runs import TestRun

pytestmark = pytest.mark.slow

SIZES = (1, 2, 4)
KINDS = ("weights", "exp_avg", "exp_avg_sq")


@pytest.fixture(scope="module", autouse=True)
def variants() -> Iterator[None]:
    with known():
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> TestRun:
    """Two steps of one process. Nobody changes it."""
    sections: dict[str, Any] = {"model": VARIANTS["gated_gpt"], "checkpoint": {"interval": 2}}
    found = TestRun(tmp_path_factory.mktemp("gated"), corpus, **sections)
    found.train(1, "train.steps=2")
    return found


@pytest.fixture(scope="module")
def resharded(run: TestRun, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, ...], Path]:
    """The checkpoint converted to each size, and from there to each other."""
    folder = tmp_path_factory.mktemp("resharded")
    found = {(1,): run.step(2)}
    for size in SIZES[1:]:
        write_checkpoint(open_weights(run.step(2)), folder / f"{size}", tensor=size)
        found[(size,)] = folder / f"{size}"
    for before, after in itertools.permutations(SIZES, 2):
        path = folder / f"{before}-{after}"
        write_checkpoint(open_weights(found[(before,)]), path, tensor=after)
        found[before, after] = path
    return found


def recipe_of(run: TestRun, tensor: int) -> Recipe:
    return load_recipe(str(run.recipe), [f"parallel.tensor={tensor}"])


def test_every_file_holds_the_same_numbers(resharded: dict[tuple[int, ...], Path]) -> None:
    first = CheckpointReader(resharded[(1,)])
    for path in resharded.values():
        reader = CheckpointReader(path)
        for kind in KINDS:
            for name in first.names(kind):
                assert torch.equal(reader.read(name, kind), first.read(name, kind)), (path, kind, name)
    entry = CheckpointReader(resharded[(2,)]).manifest.tensors["weights"]
    assert len(entry["decoder.layers.0.mlp.linear_fc1.weight"].fragments) == 4


def cut(whole: torch.Tensor, name: str, rank: int, size: int) -> torch.Tensor:
    """A rank's part as megatron-core computes with it: of the gate's rows and of the others each a part."""
    if ".linear_fc1." in name:
        return torch.cat([part.chunk(size)[rank] for part in whole.chunk(2)])
    if name.endswith((".linear_fc2.weight", ".linear_proj.weight")):
        return whole.chunk(size, 1)[rank]
    if name.endswith((".linear_qkv.weight", ".linear_qkv.bias", "word_embeddings.weight")):
        return whole.chunk(size)[rank]
    return whole


def loaded(recipe: Recipe, checkpoint: Path) -> dict[str, int]:
    """Load into this rank's layout: each parameter is its cut, and what would be saved again is what was read."""
    from megatron_octo.architectures.parameters import canonical_name
    from megatron_octo.model.platform.grid import Grid
    from megatron_octo.training.engine.network import Network
    from megatron_octo.training.state.state_parts import full_part, load_state

    grid = Grid.build(recipe.parallel.layout, torch.device("cpu"), recipe.train.seed)
    network, reader = Network(recipe, grid), CheckpointReader(checkpoint)
    network.start_from(None, resumed=True)
    load_state(reader, network.core, network.optimizer, recipe, grid)
    network.optimizer.restored(int(reader.manifest.state["optimizer_steps"]))
    for local, parameter in network.core.named_parameters():
        name = canonical_name(local, 0)
        expected = cut(reader.read(name), name, grid.tensor_rank, grid.layout.tensor)
        assert torch.equal(parameter, expected), name
    part = full_part(network.core, network.optimizer, recipe, grid)
    counts: dict[str, int] = {}
    for kind, entries in part.tensors.items():
        for name, entry in entries.items():
            for fragment in entry.fragments:
                start, end = fragment.flat or (0, math.prod(fragment.shape))
                read = reader.read_flat(name, kind, fragment.offset, fragment.shape, start, end)
                assert torch.equal(part.files[fragment.file][fragment.key].read().reshape(-1), read), name
                counts[kind] = counts.get(kind, 0) + end - start
    return counts


@pytest.mark.parametrize("world", [(1, 1), (2, 2), (4, 4), (2, 4)], ids="tp{0[0]}-of-{0[1]}".format)
@pytest.mark.slow
def test_every_layout_reads_and_saves(
    world: tuple[int, int], run: TestRun, resharded: dict[tuple[int, ...], Path]
) -> None:
    tensor, ranks = world
    first = CheckpointReader(run.step(2))
    whole = {kind: sum(first.read(name, kind).numel() for name in first.names(kind)) for kind in KINDS}
    for path in [resharded[(size,)] for size in SIZES] if ranks == tensor else [run.step(2)]:
        counts = run_ranks(ranks, loaded, recipe_of(run, tensor), path)
        assert {kind: sum(count[kind] for count in counts if kind in count) for kind in KINDS} == whole


@pytest.mark.slow
def test_training_goes_on_under_other_sizes(run: TestRun, corpus: Path, tmp_path: Path) -> None:
    sections: dict[str, Any] = {"model": VARIANTS["gated_gpt"], "checkpoint": {"interval": 2}}
    alone, changing = (TestRun(tmp_path / name, corpus, **sections) for name in ("alone", "changing"))
    alone.train(1)
    for steps, tensor in ((2, 2), (4, 4), (6, 1)):
        changing.train(tensor, f"train.steps={steps}", f"parallel.tensor={tensor}")
    for mine, expected in zip(changing.curve(), alone.curve(), strict=True):
        assert mine[1:3] == pytest.approx(expected[1:3], abs=1e-5)


def test_one_box_would_be_wrong(run: TestRun) -> None:
    """The comparison fails if gate and up are cut together."""

    def boxes(spec: ParameterSpec, rank: int, size: int) -> Any:
        shape, offset = spec.local_shape(size), [0] * len(spec.shape)
        if spec.axis is not None:
            offset[spec.axis] = rank * shape[spec.axis]
        return [(tuple(offset), shape)]

    with mock.patch.object(ParameterSpec, "boxes", boxes), pytest.raises(AssertionError, match="linear_fc1"):
        run_ranks(2, loaded, recipe_of(run, 2), run.step(2))
