"""The planner's memory: golden arithmetic, and every GPU measurement that the project keeps."""

import math
from typing import Any

import pytest

from benchmarks.estimates import MEASURED
from megatron_octo.architectures.parameters import count_parameters
from megatron_octo.config.compute import Compute
from megatron_octo.config.layout import Layout
from megatron_octo.recipe.loading import check_batch, load_recipe
from megatron_octo.recipe.schema import Recipe
from megatron_octo.sizing.gpus import GPUS
from megatron_octo.sizing.measured import load_measurements
from megatron_octo.sizing.memory import (
    GIB,
    kept_tensors,
    layer_tensors,
    memory,
    stage_parameters,
    trained_parameters,
)
from tests.architectures.variants import VARIANTS, known
from tests.model.configs import given
from tests.models import small_model
from tests.places import PROJECT

ROWS = load_measurements(MEASURED, PROJECT)


def santacoder(*overrides: str) -> Recipe:
    return load_recipe(PROJECT / "recipes/santacoderpack.yaml", overrides)


def starcoder(*overrides: str) -> Recipe:
    return load_recipe(PROJECT / "recipes/starcoderbase_finetune.yaml", overrides)


@pytest.mark.parametrize("number", range(len(ROWS)), ids=lambda number: ROWS[number].where.split()[0])
def test_what_was_measured(number: int) -> None:
    """torch.cuda.max_memory_allocated of real runs, within a tenth."""
    row = ROWS[number]
    if any((later.recipe, later.gpu, later.ranks) == (row.recipe, row.gpu, row.ranks) for later in ROWS[number + 1 :]):
        pytest.skip("measured again later")
    replicas = row.recipe.parallel.layout.replicas(row.ranks)
    planned = memory(*given(row.recipe), replicas, check_batch(row.recipe, replicas)).total / GIB
    assert row.memory and planned == pytest.approx(row.memory, rel=0.1)


def test_states_of_bf16_and_fp32_training() -> None:
    """Bytes a parameter: 2 + 4 + 12 in bf16 with fp32 state, 2 + 2 + 8 with bf16 state, 4 + 4 + 8 in fp32."""
    parameters = count_parameters(santacoder().model, padded=True)
    for overrides, expected in (
        ([], (2, 4, 12)),
        (["optimizer.state_dtype=bf16"], (2, 2, 8)),
        (["train.precision=fp32"], (4, 4, 8)),
    ):
        found = memory(*given(santacoder(*overrides)), 1, 1)
        assert (found.weights, found.gradients, found.optimizer) == tuple(n * parameters for n in expected)


def test_logits_by_the_loss_that_holds_them() -> None:
    """1.1B, 16,384 tokens of 49,152 columns: once in bf16 (fused layers), twice, or twice in fp32."""
    once = 16_384 * 49_152 * 2
    for overrides, times in (
        ([], 1),
        (["system.layers=mcore"], 2),
        (["system.layers=mcore", "system.cross_entropy=reference"], 4),
    ):
        assert memory(*given(santacoder(*overrides)), 1, 4).logits == times * once


def test_each_rank_has_the_one_key_and_value() -> None:
    """Fused layers, tensor 2: half of 2 x 128 rows of 6,144 weights and a bias more than an even cut, 40 times."""
    two = ["parallel.tensor=2", "parallel.pipeline=1"]
    fused, cut = (memory(*given(starcoder(*two, f"system.layers={kind}")), 1, 4) for kind in ("fused", "mcore"))
    assert (fused.weights - cut.weights) / 2 == 40 * 128 * 6_145


def test_only_the_optimizer_is_shared_out_over_replicas() -> None:
    one, eight = memory(*given(santacoder()), 1, 4).parts(), memory(*given(santacoder()), 8, 4).parts()
    assert eight.pop("optimizer") == one.pop("optimizer") / 8
    assert one == eight


@pytest.mark.parametrize("pipeline", [1, 2, 4])
@pytest.mark.parametrize("tensor", [1, 2, 4])
def test_no_parameter_is_lost_between_ranks(tensor: int, pipeline: int) -> None:
    sequence = str(tensor > 1).lower()
    recipe = starcoder(f"parallel.tensor={tensor}", f"parallel.pipeline={pipeline}", f"parallel.sequence={sequence}")
    model = recipe.model
    held = tensor * sum(stage_parameters(*given(recipe), stage) for stage in range(pipeline))
    # Each tensor rank has all of the norms, of the biases of row-parallel layers, and of the positions.
    copied = 6 * model.hidden_size * model.num_layers + 2 * model.hidden_size
    copied += model.max_position_embeddings * model.hidden_size
    tied = model.padded_vocab_size * model.hidden_size if pipeline > 1 else 0
    assert held == count_parameters(model, padded=True) + (tensor - 1) * copied + tied


def test_bytes_of_a_layer() -> None:
    """28 h + 4 d of activations a token in bf16 with an FFN of 4 h, and 16 + 4 heads of statistics."""
    model = santacoder().model
    hidden, dim = model.hidden_size, model.head_dim
    without = santacoder("model.hidden_dropout=0.0")
    assert sum(layer_tensors(*given(without)).values()) == 28 * hidden + 4 * dim + 16 + 4 * model.num_attention_heads
    # Megatron-core's dropout remembers a byte an element, twice a layer; the fused layers a seed.
    assert layer_tensors(*given(santacoder())) == layer_tensors(*given(without))
    masks = sum(layer_tensors(*given(santacoder("system.layers=mcore"))).values()) - sum(
        layer_tensors(*given(without)).values()
    )
    assert masks == 2 * hidden


def test_recompute_keeps_less() -> None:
    sizes = {
        mode: sum(kept_tensors(*given(santacoder(f"train.recompute={mode}"))).values())
        for mode in ("none", "mlp", "full")
    }
    assert sizes["full"] == 4 * santacoder().model.hidden_size  # the residual, and what is to be added to it
    assert sizes["full"] < sizes["mlp"] < sizes["none"]
    totals = [memory(*given(santacoder(f"train.recompute={mode}")), 1, 4).total for mode in ("none", "mlp", "full")]
    assert totals == sorted(totals, reverse=True)


def test_the_first_stage_holds_a_micro_batch_a_stage() -> None:
    """One forward, one backward: stage 0 of four has four micro-batches alive, or as many as there are."""
    recipe = starcoder("model.hidden_dropout=0.0")
    per_layer = 8192 * sum(kept_tensors(*given(recipe)).values())
    many, two = memory(*given(recipe), 4, 32), memory(*given(recipe), 4, 2)
    assert many.stage == 0 and many.activations == pytest.approx(4 * 10 * per_layer)
    assert many.logits == 0
    assert two.activations <= many.activations / 2 + 1


@pytest.mark.parametrize("name", GPUS)
def test_gpus_are_complete(name: str) -> None:
    gpu: Any = GPUS[name]
    assert gpu.peak > 1e14 and 0 < gpu.usable < gpu.memory and math.isfinite(gpu.bandwidth)


def test_lora_keeps_frozen_weights_and_trains_adapters() -> None:
    """OctoCoder on 8 GPUs: 2 bytes of everything, and 4 + 12 / replicas of 35.6 million parameters."""
    recipe = load_recipe(PROJECT / "recipes/octocoder_lora.yaml")
    found = memory(*given(recipe), 8, 4)
    assert found.weights == 2 * (15_517_456_384 + 35_553_280)
    assert found.gradients == 4 * 35_553_280
    assert found.optimizer == 12 * 35_553_280 / 8
    # On two GPUs a replica: B of c_attn and A of both c_proj are cut, the other half of each pair is on both.
    halves = 40 * 16 * ((6144 + 6400 // 2) + (6144 // 2 + 6144) + (24576 // 2 + 6144))
    assert (
        trained_parameters(*given(load_recipe(PROJECT / "recipes/octocoder_lora.yaml", ["parallel.tensor=2"])), 0)
        == halves
    )


def test_kinds_of_parts_are_counted() -> None:
    """A gated MLP keeps two inner tensors before its activation and one after it, RMSNorm one number per token."""
    with known():
        plain = small_model(architecture="starcoder2", rotary_base=1e4)
        gated = small_model(**{**VARIANTS["llama"], "num_query_groups": 1, "tied_embeddings": True})
        compute = Compute(seq_length=64, layout=Layout(tensor=2))
        before, after = layer_tensors(plain, compute), layer_tensors(gated, compute)
        differing = {name: after[name] - before[name] for name in after if after[name] != before[name]}
        inner = 4 * plain.ffn_hidden_size / 2
        assert differing == {
            "attention: statistics": -4,
            "mlp: statistics": -4,
            "mlp: before the activation": inner,
        }
        cut = Compute(seq_length=64, layout=Layout(tensor=2, pipeline=2))
        held = sum(stage_parameters(gated, cut, stage) for stage in range(2))
        norms = (2 * gated.num_layers + 1) * gated.hidden_size
        words = gated.padded_vocab_size * gated.hidden_size  # tied: the last stage has a copy
        assert 2 * held == count_parameters(gated, padded=True) + words + norms
