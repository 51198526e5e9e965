"""The table of parameters is what megatron-core builds, on every stage and tensor rank."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from megatron_octo.architectures import find_architecture
from megatron_octo.architectures.parameters import (
    POSITION_EMBEDDINGS,
    WORD_EMBEDDINGS,
    canonical_name,
    count_parameters,
    parameter_specs,
)
from megatron_octo.config.model import ModelConfig
from megatron_octo.recipe.schema import Recipe
from tests.distributed import run_ranks
from tests.models import SANTACODER, STARCODER

STARCODER2 = {  # the published shapes; the largest has an output layer of its own
    "3b": ModelConfig(
        architecture="starcoder2",
        num_layers=30,
        hidden_size=3072,
        num_attention_heads=24,
        num_query_groups=2,
        ffn_hidden_size=12288,
        max_position_embeddings=16384,
        vocab_size=49152,
        rotary_base=999999.4420358813,
        sliding_window=4096,
    ),
    "7b": ModelConfig(
        architecture="starcoder2",
        num_layers=32,
        hidden_size=4608,
        num_attention_heads=36,
        num_query_groups=4,
        ffn_hidden_size=18432,
        max_position_embeddings=16384,
        vocab_size=49152,
        rotary_base=1e6,
        sliding_window=4096,
    ),
    "15b": ModelConfig(
        architecture="starcoder2",
        num_layers=40,
        hidden_size=6144,
        num_attention_heads=48,
        num_query_groups=4,
        ffn_hidden_size=24576,
        max_position_embeddings=16384,
        vocab_size=49152,
        rotary_base=1e5,
        sliding_window=4096,
        tied_embeddings=False,
    ),
}


def built(recipe: Recipe) -> list[tuple[str, tuple[int, ...], bool, int]]:
    """Name, shape, cut by tensor parallelism or not, and on which axis: as megatron-core has it."""
    from megatron_octo.model.attention.backend import choose_backend
    from megatron_octo.model.mcore_gpt import build_model
    from megatron_octo.model.platform.grid import Grid

    grid = Grid.build(recipe.parallel.layout, torch.device("cpu"), 0)
    model = build_model(recipe.model, recipe.compute, grid, choose_backend(recipe.model, recipe.compute, grid.device))
    first_layer = model.decoder.layers[0].layer_number - 1
    return [
        (
            canonical_name(name, first_layer, recipe.model.tied_embeddings),
            tuple(parameter.shape),
            bool(getattr(parameter, "tensor_model_parallel", False)),
            int(getattr(parameter, "partition_dim", -1)),
        )
        for name, parameter in model.named_parameters()
    ]


@pytest.mark.parametrize(
    ("architecture", "tensor", "pipeline", "sequence"),
    [
        ("gpt_bigcode", 1, 1, False),
        ("gpt_bigcode", 2, 1, False),
        ("gpt_bigcode", 2, 1, True),
        ("gpt_bigcode", 1, 2, False),
        ("gpt_bigcode", 2, 2, True),
        ("starcoder2", 2, 2, True),
        ("starcoder2", 4, 1, False),
    ],
)
def test_table_is_what_is_built(
    make_recipe: Callable[..., Recipe], architecture: str, tensor: int, pipeline: int, sequence: bool
) -> None:
    parallel = {"tensor": tensor, "pipeline": pipeline, "sequence": sequence}
    model: dict[str, Any] = {"num_layers": 4, "architecture": architecture}
    if architecture == "starcoder2":
        model |= {"num_query_groups": 2, "rotary_base": 1e4, "tied_embeddings": False}
    recipe = make_recipe(parallel=parallel, model=model)
    specs = parameter_specs(recipe.model)
    stages: list[list[str]] = [[] for _ in range(pipeline)]
    for rank, parameters in enumerate(run_ranks(tensor * pipeline, built, recipe)):
        for name, shape, is_cut, axis in parameters:
            spec = specs[name]
            assert shape == spec.local_shape(tensor), name
            assert is_cut == (spec.axis is not None), name
            if is_cut:
                assert axis == spec.axis, name
        if rank % tensor == 0:
            stages[rank // tensor] = [name for name, *_ in parameters]
    assert set().union(*stages) == set(specs)
    assert all(len(names) == len(set(names)) for names in stages)
    if pipeline == 2:
        shared = set(stages[0]) & set(stages[1])
        # The last stage's copy, for the output layer.
        assert shared == ({WORD_EMBEDDINGS} if recipe.model.tied_embeddings else set())
        assert (POSITION_EMBEDDINGS in stages[0]) == (architecture == "gpt_bigcode")


@pytest.mark.parametrize(
    ("model", "count"),
    [(STARCODER, 15_517_456_384), (SANTACODER, 1_124_886_528)],
    ids=["starcoder", "santacoder"],
)
def test_published_sizes(model: ModelConfig, count: int) -> None:
    assert count_parameters(model) == count
    h, f, d, v, p = (
        model.hidden_size,
        model.ffn_hidden_size,
        model.head_dim,
        model.vocab_size,
        model.max_position_embeddings,
    )
    layer = 4 * h + (h + 2 * d) * (h + 1) + h * (h + 1) + f * (h + 1) + h * (f + 1)
    assert count == v * h + p * h + model.num_layers * layer + 2 * h
    padding = (model.padded_vocab_size - v) * h
    assert count_parameters(model, padded=True) == count + padding


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (STARCODER, 15_517_456_384),
        (SANTACODER, 1_124_886_528),
        (STARCODER2["3b"], 3_030_371_328),
        (STARCODER2["7b"], 7_173_923_840),
        (STARCODER2["15b"], 15_957_889_024),
    ],
    ids=["starcoder", "santacoder", "starcoder2-3b", "starcoder2-7b", "starcoder2-15b"],
)
def test_transformers_counts_as_many(model: ModelConfig, count: int) -> None:
    import transformers

    architecture = find_architecture(model.architecture)
    config = transformers.AutoConfig.for_model(**architecture.hf_config(model, 0, "float32"))
    with torch.device("meta"):
        network = getattr(transformers, architecture.hf_class)(config)
    assert network.num_parameters() == count_parameters(model) == count
    found = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    aliases = architecture.hf_aliases(model)
    expected = {name: tensor.shape for name, tensor in architecture.hf_tensors(model).items()}
    assert {name: shape for name, shape in found.items() if name not in aliases} == expected


def test_boxes_of_all_ranks_cover_a_tensor_once() -> None:
    for spec in parameter_specs(SANTACODER).values():
        seen = torch.zeros(spec.shape[0] if spec.axis == 0 else spec.shape[-1], dtype=torch.int32)
        for rank in range(4):
            ((offset, shape),) = spec.boxes(rank, 4)
            axis = spec.axis if spec.axis is not None else 0
            if spec.axis is None:
                assert (offset, shape) == ((0,) * len(spec.shape), spec.shape)
            else:
                seen[offset[axis] : offset[axis] + shape[axis]] += 1
        assert spec.axis is None or bool((seen == 1).all())


def test_names_of_fused_layer_norms() -> None:
    # Transformer Engine's names of the same parameters, on the second stage of two.
    assert canonical_name("decoder.layers.1.self_attention.linear_qkv.layer_norm_weight", 2) == (
        "decoder.layers.3.input_layernorm.weight"
    )
    assert canonical_name("decoder.layers.0.mlp.linear_fc1.layer_norm_bias", 2) == (
        "decoder.layers.2.pre_mlp_layernorm.bias"
    )
    assert canonical_name("output_layer.weight", 2) == WORD_EMBEDDINGS
    assert canonical_name("output_layer.weight", 2, tied=False) == "output_layer.weight"
    assert canonical_name("decoder.final_layernorm.bias", 2) == "decoder.final_layernorm.bias"


def start(recipe: Recipe) -> dict[str, Any]:
    from megatron_octo.model.attention.backend import choose_backend
    from megatron_octo.model.mcore_gpt import build_model
    from megatron_octo.model.platform.grid import Grid
    from megatron_octo.model.weights import held_parameters, init_weights

    grid = Grid.build(recipe.parallel.layout, torch.device("cpu"), 0)
    model = build_model(recipe.model, recipe.compute, grid, choose_backend(recipe.model, recipe.compute, grid.device))
    init_weights(model, recipe.model, recipe.compute, grid)
    return {held.key: held.parameter.detach() for held in held_parameters(model, recipe.model, recipe.compute, grid)}


def test_start_is_gpt2s_and_padding_is_zero(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe(model={"hidden_size": 64, "ffn_hidden_size": 256})
    weights = run_ranks(1, start, recipe)[0]
    residual = 0.1 / (2 * recipe.model.num_layers) ** 0.5
    for name, spec in parameter_specs(recipe.model).items():
        value = weights[name]
        if name == WORD_EMBEDDINGS:
            assert not value[recipe.model.vocab_size :].any()
            value = value[: recipe.model.vocab_size]
        expected = {"ones": 0.0, "zeros": 0.0, "normal": 0.1, "residual": residual}[spec.init]
        assert float(value.std()) == pytest.approx(expected, rel=0.05), name
        assert float(value.mean()) == pytest.approx(1.0 if spec.init == "ones" else 0.0, abs=0.01), name
    other = run_ranks(1, start, make_recipe(model={"hidden_size": 64, "ffn_hidden_size": 256}, train={"seed": 5}))[0]
    assert not torch.equal(other[WORD_EMBEDDINGS], weights[WORD_EMBEDDINGS])
