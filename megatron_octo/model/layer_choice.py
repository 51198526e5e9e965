"""Which layers a recipe is computed with. Imports no torch: the planner asks, too."""

from megatron_octo.common.errors import OctoError
from megatron_octo.recipe.schema import Recipe


def use_fused_layers(recipe: Recipe) -> bool:
    """Whether a run computes with our own layers (:mod:`megatron_octo.model.fused`).

    Raises:
        OctoError: the recipe asks for them where they cannot be, or for kernels that belong to other layers or numbers.
    """
    problem = None
    if recipe.model.architecture != "gpt_bigcode":
        problem = f"the fused layers know gpt_bigcode only, not {recipe.model.architecture}"
    elif recipe.model.num_query_groups != 1 or not recipe.model.tied_embeddings:
        problem = "the fused layers have one key and value for all queries, and tied embeddings"
    elif recipe.lora:
        problem = "LoRA's adapters are for megatron-core's layers"
    if problem and recipe.system.layers == "fused":
        raise OctoError(problem, where="system.layers", hint="use auto")
    fused = recipe.system.layers != "mcore" and problem is None
    if recipe.system.mlp == "quack":
        _check_quack(recipe, fused)
    return fused


def _check_quack(recipe: Recipe, fused: bool) -> None:
    problem = None
    if not fused:
        problem = "QuACK is for our own layers, and this recipe is computed with megatron-core's"
    elif recipe.train.precision != "bf16" or recipe.train.fp8 != "none":
        given = recipe.train.precision if recipe.train.fp8 == "none" else "fp8"
        problem = f"QuACK is used for bf16 alone, not {given}"
    if problem:
        raise OctoError(problem, where="system.mlp", hint="use auto")
