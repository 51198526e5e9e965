"""From a recipe to :class:`~megatron_octo.config.compute.Compute`: the choice of layers is made here and only here."""

import functools
from typing import TYPE_CHECKING, Literal

from megatron_octo.architectures import is_multi_query_gpt
from megatron_octo.common.errors import OctoError
from megatron_octo.config.compute import Compute

if TYPE_CHECKING:
    from megatron_octo.recipe.schema import Recipe


@functools.lru_cache(maxsize=1024)
def resolve(recipe: "Recipe") -> Compute:
    """Return how the recipe's network is computed.

    Raises:
        OctoError: the recipe asks for fused layers where they do not apply, or for kernels of other layers or dtypes.
    """
    train, system = recipe.train, recipe.system
    return Compute(
        seq_length=recipe.data.seq_length,
        micro_size=recipe.batch.micro_size,
        layout=recipe.parallel.layout,
        layers=_layers(recipe),
        precision=train.precision,
        fp8=train.fp8,
        recompute=train.recompute,
        state_dtype=recipe.optimizer.state_dtype,
        attention=system.attention,
        mlp=system.mlp,
        cross_entropy=system.cross_entropy,
        tensor_transport=system.tensor_transport,
        deterministic=system.deterministic,
        lora=recipe.lora,
        seed=train.seed,
    )


def _layers(recipe: "Recipe") -> Literal["fused", "mcore"]:
    problem = None
    if not is_multi_query_gpt(recipe.model):
        problem = (
            "the fused layers compute GPT-2's layers with one key and value for all heads, full attention and tied "
            f"embeddings; this {recipe.model.architecture} model is another"
        )
    elif recipe.lora:
        problem = "LoRA's adapters are for megatron-core's layers"
    if problem and recipe.system.layers == "fused":
        raise OctoError(problem, where="system.layers", hint="use auto")
    fused = recipe.system.layers != "mcore" and problem is None
    if recipe.system.mlp == "quack":
        _check_quack(recipe, fused)
    return "fused" if fused else "mcore"


def _check_quack(recipe: "Recipe", fused: bool) -> None:
    problem = None
    if not fused:
        problem = "QuACK is for the fused layers, and this recipe is computed with megatron-core's"
    elif recipe.train.precision != "bf16" or recipe.train.fp8 != "none":
        given = recipe.train.precision if recipe.train.fp8 == "none" else "fp8"
        problem = f"QuACK is used for bf16 alone, not {given}"
    if problem:
        raise OctoError(problem, where="system.mlp", hint="use auto")
