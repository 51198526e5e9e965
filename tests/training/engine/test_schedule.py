"""The learning rate is Megatron's, at every step."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from megatron_octo.model.platform.mcore import load_mcore
from megatron_octo.recipe.schema import Recipe
from megatron_octo.training.engine.schedule import learning_rate

LR, MIN_LR = 5e-5, 5e-6


def theirs(style: str, warmup: int, decay: int, steps: int) -> list[float]:
    load_mcore()
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

    group = {"lr": LR, "max_lr": LR, "min_lr": MIN_LR, "wd_mult": 1.0}
    scheduler = OptimizerParamScheduler(
        SimpleNamespace(param_groups=[group]),
        init_lr=0.0,
        max_lr=LR,
        min_lr=MIN_LR,
        lr_warmup_steps=warmup,
        lr_decay_steps=decay,
        lr_decay_style=style,
        start_wd=0.1,
        end_wd=0.1,
        wd_incr_steps=steps,
        wd_incr_style="constant",
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
    )
    rates = []
    for step in range(1, steps + 1):
        scheduler.num_steps = step
        rates.append(float(scheduler.get_lr(group)))
    return rates


@pytest.mark.parametrize("style", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("warmup", "decay", "steps"), [(0, 100, 130), (20, 100, 130), (1, 7, 7), (99, 100, 120)])
def test_is_megatrons(make_recipe: Callable[..., Recipe], style: str, warmup: int, decay: int, steps: int) -> None:
    recipe = make_recipe(
        optimizer={"lr": LR, "min_lr": MIN_LR},
        schedule={"style": style, "warmup_steps": warmup, "decay_steps": decay},
        train={"steps": steps},
    )
    ours = [learning_rate(recipe, step) for step in range(1, steps + 1)]
    assert ours == pytest.approx(theirs(style, warmup, decay, steps), rel=1e-12)


def test_boundaries(make_recipe: Callable[..., Recipe]) -> None:
    def recipe(**schedule: Any) -> Recipe:
        return make_recipe(
            optimizer={"lr": 1.0, "min_lr": 0.1},
            schedule={"warmup_steps": None, **schedule},
            train={"steps": 100},
        )

    for style in ("cosine", "linear"):
        shaped = recipe(style=style, warmup_steps=10)
        assert [learning_rate(shaped, step) for step in (1, 5, 10)] == [0.1, 0.5, 1.0]
        assert learning_rate(shaped, 11) < 1.0
        assert learning_rate(shaped, 55) == pytest.approx(0.55)  # half-way, both shapes meet
        assert learning_rate(shaped, 100) == pytest.approx(0.1)
        assert learning_rate(shaped, 101) == 0.1
        rates = [learning_rate(shaped, step) for step in range(10, 102)]
        assert rates == sorted(rates, reverse=True)
    flat = recipe(style="constant", warmup_steps=10)
    assert [learning_rate(flat, step) for step in (5, 10, 11, 1000)] == [0.5, 1.0, 1.0, 1.0]
    assert learning_rate(recipe(style="cosine", warmup_steps=0), 1) > 0.999
    assert recipe(warmup_fraction=0.02, decay_steps=250).warmup_steps == 5  # of decay_steps
    assert recipe(warmup_fraction=0.019, decay_steps=100).warmup_steps == 1
    assert recipe(warmup_fraction=0.009).warmup_steps == 0
