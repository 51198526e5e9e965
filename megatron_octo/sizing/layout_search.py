"""The layouts of a recipe that fit a cluster, fastest first."""

from megatron_octo.common.errors import OctoError
from megatron_octo.recipe.schema import Recipe
from megatron_octo.sizing.estimate import Cluster, Plan, change, differing, in_words, plan_on

_MICRO_SIZES = (1, 2, 4, 8)
_RECOMPUTE = ("none", "mlp", "full")


def search(recipe: Recipe, cluster: Cluster) -> list[tuple[str, Plan]]:
    """Every tensor x pipeline x micro-batch that fits, with the least recompute, as overrides; the fastest first.

    Tensor parallelism stays inside a node and is taken with sequence parallelism, which costs nothing.
    """
    found: list[tuple[str, Plan]] = []
    layers = recipe.model.num_layers
    tensors = [size for size in (1, 2, 4, 8, 16) if size <= cluster.per_node]
    pipelines = [size for size in range(1, layers + 1) if layers % size == 0 and size <= cluster.gpus]
    for tensor in tensors:
        for pipeline in pipelines:
            for micro in _MICRO_SIZES:
                for recompute in _RECOMPUTE:
                    overrides: dict[str, object] = {
                        "parallel.tensor": tensor,
                        "parallel.pipeline": pipeline,
                        "parallel.sequence": tensor > 1,
                        "batch.micro_size": micro,
                        "train.recompute": recompute,
                    }
                    changed = change(recipe, overrides)
                    if changed is None:
                        continue
                    try:
                        plan = plan_on(changed, cluster)
                    except OctoError:
                        continue
                    if plan.fits:
                        words = in_words(differing(recipe, overrides))
                        found.append((words or "the recipe as it is", plan))
                        break  # computing more again would only take longer
    return sorted(found, key=lambda item: item[1].speed.seconds)
