"""Which arithmetic a recipe gets where there is no GPU, and what it is refused."""

from pathlib import Path

import pytest
import torch

from megatron_octo.common.errors import OctoError
from megatron_octo.model.fused.matmul.matmul_backend import Arithmetic, EmulatedFp8
from megatron_octo.model.fused.matmul.matmul_choice import arithmetic_of
from megatron_octo.recipe.loading import build_recipe
from tests.conftest import recipe_tree
from tests.model.configs import given


def test_numbers_of_a_recipe(tmp_path: Path, corpus: Path) -> None:
    tree = recipe_tree(corpus, tmp_path / "run")
    cpu = torch.device("cpu")
    assert type(arithmetic_of(*given(build_recipe(tree)), cpu)) is Arithmetic
    tree["train"]["fp8"] = "current"
    assert type(arithmetic_of(*given(build_recipe(tree)), cpu)) is EmulatedFp8
    with pytest.raises(OctoError, match="Transformer Engine"):
        arithmetic_of(*given(build_recipe(tree)), torch.device("cuda"))
    tree["model"]["ffn_hidden_size"] = 100
    with pytest.raises(OctoError, match="feed-forward layer: 100"):
        build_recipe(tree)
