"""Learning rate as a pure function of the step, so that there is no state to save."""

import math

from megatron_octo.recipe.schema import Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of optimizer step ``step`` (the first is 1), as Megatron-LM defines it.

    Linear warm-up from 0, then cosine or linear decay from ``lr`` to ``min_lr`` at ``decay_steps``, constant after.
    """
    optimizer, warmup, decay = recipe.optimizer, recipe.warmup_steps, recipe.decay_steps
    if warmup and step <= warmup:
        return optimizer.lr * step / warmup
    if recipe.schedule.style == "constant":
        return optimizer.lr
    if step > decay:
        return optimizer.min_lr
    ratio = (step - warmup) / (decay - warmup)
    left = 0.5 * (math.cos(math.pi * ratio) + 1.0) if recipe.schedule.style == "cosine" else 1.0 - ratio
    return optimizer.min_lr + left * (optimizer.lr - optimizer.min_lr)
