"""Fixtures that several rooms share: a small corpus, and recipes on it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# OpenMP's threads do not survive a fork, and transformers loads weights in threads of its own, which
# torch.set_num_threads does not reach.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest

from megatron_octo.data.dataset.writer import IndexedWriter
from megatron_octo.recipe.loading import build_recipe
from megatron_octo.recipe.schema import Recipe

_STARTS_RANKS = {"tests.distributed", "tests.training.runs"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by where they are and what their module uses: ``slurm``, ``distributed``."""
    for item in items:
        if "slurm" in item.path.relative_to(Path(__file__).parent).parts:
            item.add_marker(pytest.mark.slurm)
        used = {getattr(value, "__module__", None) for value in vars(getattr(item, "module", object)).values()}
        if used & _STARTS_RANKS:
            item.add_marker(pytest.mark.distributed)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")


VOCABULARY = 1001  # no power of two divides it
SEQ_LENGTH = 64


def write_corpus(prefix: Path, documents: int = 120, vocabulary: int = VOCABULARY, seed: int = 0) -> Path:
    """Random documents, context then target; lengths from 4 to 90, so that some do not fit a row of 64."""
    generator = np.random.default_rng(seed)
    with IndexedWriter(prefix, vocabulary) as writer:
        for _ in range(documents):
            context = generator.integers(1, vocabulary, generator.integers(2, 40))
            target = generator.integers(1, vocabulary, generator.integers(2, 50))
            writer.add_document([(context, 0), (target, 1)])
        writer.finish()
        writer.commit()
    return prefix


@pytest.fixture(autouse=True)
def launchers_variables() -> Iterator[None]:
    """A test that plays a rank leaves no variables to the processes that later tests start."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    before = {name: os.environ.get(name) for name in names}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "random")


def recipe_tree(corpus: Path, run_dir: Path, **sections: Any) -> dict[str, Any]:
    """A tiny recipe as a plain mapping; keyword arguments update sections."""
    tree: dict[str, Any] = {
        "run_dir": str(run_dir),
        "model": {
            "num_layers": 2,
            "hidden_size": 32,
            "num_attention_heads": 4,
            "ffn_hidden_size": 128,
            "max_position_embeddings": SEQ_LENGTH,
            "vocab_size": VOCABULARY,
            "init_std": 0.1,
        },
        "parallel": {},
        "data": {"train": f"train: 1.0 0:0.9 {corpus}", "seq_length": SEQ_LENGTH},
        "batch": {"global_size": 8, "micro_size": 2},
        "optimizer": {"lr": 1e-3, "min_lr": 1e-4},
        "schedule": {"warmup_steps": 2},
        "train": {"steps": 6, "precision": "fp32"},
        "checkpoint": {"interval": 3},
        "log": {"tensorboard": False},
        "system": {"device": "cpu"},
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section} if isinstance(section, dict) else section
    return tree


@pytest.fixture
def make_recipe(corpus: Path, tmp_path: Path) -> Callable[..., Recipe]:
    def make(name: str = "run", **sections: Any) -> Recipe:
        return build_recipe(recipe_tree(corpus, tmp_path / name, **sections))

    return make
