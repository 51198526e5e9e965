"""The step over lists does what megatron-core's does, and its lists are what Transformer Engine's kernels expect."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from megatron_octo.recipe.schema import Recipe
from tests.distributed import run_ranks
from tests.training.test_lora import LORA

KINDS = ("main", "exp_avg", "exp_avg_sq")
STEPS, KEPT = 5, 2  # after the third step the state goes back to what it was after the second
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "alone": (1, {}),
    "dp2": (2, {}),
    "tp2": (2, {"parallel": {"tensor": 2}}),
    "pp2-dp2": (4, {"parallel": {"pipeline": 2}}),
    "lora-dp2": (2, {"lora": LORA, "checkpoint": {"init_from": "drawn"}}),
}


def make_network(recipe: Recipe, change: Callable[[Any], None] | None = None) -> Any:
    """A network on drawn weights; ``change`` is made to its model before the optimizer is built."""
    from megatron_octo.model.platform.grid import Grid
    from megatron_octo.training.engine.network import Network

    network = Network(recipe, Grid.build(recipe.parallel.layout, torch.device("cpu"), recipe.train.seed))
    if change:
        change(network.core)
    network.start_from(None)
    return network


def make_loader(network: Any) -> Any:
    from megatron_octo.data.row_stream import Position
    from megatron_octo.runfiles.run_directory import RunDirectory
    from megatron_octo.training.engine.batches import Loader
    from megatron_octo.training.engine.datasets import open_corpora

    recipe, grid = network.recipe, network.grid
    corpora = open_corpora(recipe, RunDirectory(recipe, grid.is_main), grid)
    return Loader(corpora.train, recipe, grid, Position())


def mcore_step(optimizer: Any, learning_rate: float) -> float:
    """A step as megatron-core makes it, parameter by parameter."""
    from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32

    inner = optimizer._inner
    inner.prepare_grads()
    norm = float(inner.get_grad_norm())
    for group in inner.param_groups:
        group["lr"], group["weight_decay"] = learning_rate, optimizer._weight_decay * group["wd_mult"]
    if parameters := inner.get_parameters():
        clip_grad_by_total_norm_fp32(parameters, optimizer._clip_grad, norm)
    inner.step_with_ready_grads()
    inner.zero_grad()
    return norm


def own_step(optimizer: Any, learning_rate: float) -> float:
    return float(optimizer.step(learning_rate))


def state_of(network: Any) -> dict[str, list[Tensor]]:
    """Copies of the weights of this rank, and of its shards of the optimizer's state."""
    shards = list(network.optimizer.shards())
    found = {kind: [shard.read(kind).clone() for shard in shards] for kind in KINDS}
    return found | {"weights": [parameter.detach().clone() for parameter in network.core.parameters()]}


@torch.no_grad()
def restore(network: Any, state: dict[str, list[Tensor]], steps: int) -> None:
    for parameter in network.core.parameters():
        if parameter.requires_grad:  # shards bring the weights, too
            parameter.fill_(float("nan"))
    for number, shard in enumerate(network.optimizer.shards()):
        shard.write({kind: state[kind][number] for kind in KINDS}, steps)
    network.optimizer.restored(steps)


def some_steps(recipe: Recipe, step: Callable[[Any, float], float]) -> dict[str, Any]:
    """Norms and state of steps on real batches, with a restore among them."""
    from megatron.core import parallel_state as mpu

    network = make_network(recipe)
    loader = make_loader(network)
    norms, kept = [], {}
    for number in range(1, STEPS + 1):
        network.gradients(loader.next())
        norms.append(step(network.optimizer, 1e-3 * number))
        if number == KEPT:
            kept = state_of(network)
        elif number == KEPT + 1:
            restore(network, kept, KEPT)
    loader.close()
    groups = {group["wd_mult"] for group in network.optimizer._inner.param_groups}
    mpu.destroy_model_parallel()
    return {"norms": norms, "groups": groups, **state_of(network)}


def both_steps(recipes: list[Recipe]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(some_steps(recipe, mcore_step), some_steps(recipe, own_step)) for recipe in recipes]


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_the_step_of_megatron_core(layout: str, make_recipe: Callable[..., Recipe]) -> None:
    world, sections = LAYOUTS[layout]
    cases = [(precision, clip) for precision in ("fp32", "bf16") for clip in (1e-2, 1e3)]
    recipes = [
        make_recipe(
            f"{precision}-{clip}",
            **sections,
            train={"precision": precision},
            optimizer={"clip_grad": clip, "weight_decay": 0.1},
        )
        for precision, clip in cases
    ]
    ranks = run_ranks(world, both_steps, recipes)
    for number, (precision, clip) in enumerate(cases):
        for answer in ranks:
            theirs, ours = answer[number]
            assert ours["norms"] == theirs["norms"] == ranks[0][number][0]["norms"]
            assert all((norm > clip) == (clip < 1) for norm in ours["norms"])
            assert ours["groups"] == ({1.0} if "lora" in sections else {0.0, 1.0})
            for kind in ("weights", *KINDS):
                assert ours[kind]
                for mine, other in zip(ours[kind], theirs[kind], strict=True):
                    assert mine.dtype == (torch.bfloat16 if (precision, kind) == ("bf16", "weights") else torch.float32)
                    assert torch.equal(mine, other), (precision, clip, kind)


class Kernels:
    """Stands for ``transformer_engine_torch``, which needs a GPU: the arithmetic of its kernels in plain torch."""

    def __init__(self) -> None:
        self.lists: list[list[list[Tensor]]] = []  # that multi_tensor_adam was given

    def multi_tensor_l2norm(
        self, block: int, flag: Tensor, lists: list[list[Tensor]], per_tensor: bool
    ) -> tuple[Tensor, None]:
        assert not flag.any() and not per_tensor
        norm = torch.linalg.vector_norm(torch.cat([tensor.view(-1) for tensor in lists[0]])).view(1)
        flag.fill_(not norm.isfinite())
        return norm, None

    def multi_tensor_scale(self, block: int, flag: Tensor, lists: list[list[Tensor]], factor: float) -> None:
        assert not flag.any()
        for source, target in zip(*lists, strict=True):
            target.copy_(source * factor)

    def multi_tensor_adam(
        self,
        block: int,
        flag: Tensor,
        lists: list[list[Tensor]],
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        step: int,
        mode: int,
        bias_correction: int,
        weight_decay: float,
    ) -> None:
        assert not flag.any() and mode == bias_correction == 1
        self.lists.append(lists)
        for gradient, weight, first, second, *main in zip(*lists, strict=True):
            exact = main[0] if main else weight
            first.copy_(beta1 * first + (1 - beta1) * gradient)
            second.copy_(beta2 * second + (1 - beta2) * gradient * gradient)
            root = (second / (1 - beta2**step)).sqrt()
            exact -= lr * (first / (1 - beta1**step) / (root + eps) + weight_decay * exact)
            weight.copy_(exact)


def half_fp32(model: Any) -> None:
    """Every second weight stays in fp32, in both weight decay groups."""
    for parameter in list(model.parameters())[::2]:
        parameter.data = parameter.data.float()


def drawn_steps(recipe: Recipe, mixed: bool, kernels: Kernels | None) -> dict[str, Any]:
    """Steps on random gradients, with a restore among them; through ``kernels`` if there are any."""
    from megatron.core import parallel_state as mpu

    from megatron_octo.training.engine.step_lists import StepLists

    network = make_network(recipe, half_fp32 if mixed else None)
    optimizer = network.optimizer
    if kernels:
        optimizer._lists = StepLists(optimizer._inner, optimizer._rule, torch.device("cpu"), kernels)
    norms, kept = [], {}
    for number in range(1, STEPS + 1):
        for buffer in network.model.buffers:
            generator = torch.Generator().manual_seed(number)
            buffer.grad_data.copy_(torch.randn(buffer.grad_data.shape, generator=generator))
        norms.append(optimizer.step(1e-2))
        if kernels:
            check_lists(network, kernels.lists)
            kernels.lists.clear()
        if number == KEPT:
            kept = state_of(network)
        elif number == KEPT + 1:
            restore(network, kept, KEPT)
            if kernels:  # as restored does where the optimizer is Transformer Engine's
                for group in optimizer._inner.param_groups:
                    assert group["step"] == KEPT + 1
                    group["step"] = KEPT
    mpu.destroy_model_parallel()
    return {"norms": norms, **state_of(network)}


def check_lists(network: Any, calls: list[list[list[Tensor]]]) -> None:
    """Every list holds the very memory of its kind, in one order, and all of the shards are there once."""
    shards = {}
    for shard in network.optimizer.shards():
        part = slice(shard.start, shard.end)
        weight = shard.parameter.detach().view(-1)[part]
        gradient = shard.parameter.main_grad.view(-1)[part]
        moments = [shard.read(kind) for kind in KINDS[1:]]
        main = [shard.read("main")] if weight.dtype == torch.bfloat16 else []
        shards[weight.data_ptr()] = [gradient, weight, *moments, *main]
    seen = []
    for call in calls:
        for tensors in zip(*call, strict=True):
            expected = shards[tensors[1].data_ptr()]
            seen.append(tensors[1].data_ptr())
            assert [(t.data_ptr(), t.shape, t.dtype) for t in tensors] == [
                (e.data_ptr(), e.shape, e.dtype) for e in expected
            ]
    assert sorted(seen) == sorted(shards)


def drawn_both(recipe: Recipe, mixed: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    return drawn_steps(recipe, mixed, None), drawn_steps(recipe, mixed, Kernels())


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "mixed"])
@pytest.mark.parametrize("longest", [3, 1024])
def test_lists_for_transformer_engine(
    precision: str, longest: int, make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megatron_octo.training.engine.adam._LONGEST", longest)
    mixed = precision == "mixed"
    train = {"precision": "bf16" if mixed else precision}
    recipe = make_recipe(train=train, optimizer={"weight_decay": 0.1})
    for torchs, fused in run_ranks(2, drawn_both, recipe, mixed):
        dtypes = {weight.dtype for weight in fused["weights"]}
        assert dtypes == {"fp32": {torch.float32}, "bf16": {torch.bfloat16}}.get(
            precision, {torch.float32, torch.bfloat16}
        )
        assert fused["norms"] == pytest.approx(torchs["norms"], rel=1e-5)
        assert min(fused["norms"]) > 1.0  # they were clipped
        for kind in KINDS:
            for mine, other in zip(fused[kind], torchs[kind], strict=True):
                torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)
        for mine, other in zip(fused["weights"], torchs["weights"], strict=True):
            rtol = 2**-7 if mine.dtype == torch.bfloat16 else 1e-5
            torch.testing.assert_close(mine, other, rtol=rtol, atol=1e-7)


def frozen_norm(recipe: Recipe) -> tuple[float, int]:
    """A step of a rank that trains nothing."""
    network = make_network(recipe, lambda model: model.requires_grad_(False))
    assert all(owner.is_stub_optimizer for owner in network.optimizer._inner.chained_optimizers)
    network.optimizer.restored(3)
    network.clear_gradients()
    assert not list(network.optimizer.shards())
    return network.optimizer.step(1e-3), network.optimizer.steps


def test_nothing_to_train(make_recipe: Callable[..., Recipe]) -> None:
    assert run_ranks(1, frozen_norm, make_recipe()) == [(0.0, 4)]


def gradients_again(recipe: Recipe) -> dict[str, Any]:
    """Whether the buffers are zero, and gradients, after this and that."""
    network = make_network(recipe)
    loader = make_loader(network)
    batch = loader.next()
    loader.close()
    found: list[list[Tensor]] = []

    def remember() -> None:
        network.gradients(batch)
        found.append([parameter.main_grad.clone() for parameter in network.core.parameters()])

    remember()
    remember()  # not cleared yet
    network.optimizer.step(0.0)  # clips them
    network.clear_gradients()
    written_first = [each for each in network.core.parameters() if hasattr(each, "gradient_is_stale")]
    zero = {*written_first} >= {each for each in network.core.parameters() if each.main_grad.any()}
    network.evaluate(batch)
    network.clear_gradients()
    remember()
    for buffer in network.model.buffers:
        buffer.grad_data.mul_(float("nan"))
    remember()
    return {"zero": zero, "found": found}


def test_gradients_are_clean_whoever_cleared(make_recipe: Callable[..., Recipe]) -> None:
    (answer,) = run_ranks(1, gradients_again, make_recipe(optimizer={"clip_grad": 1e-2, "weight_decay": 0.0}))
    assert answer["zero"]
    first, *others = answer["found"]
    assert all(gradient.any() for gradient in first)
    for other in others:
        assert all(torch.equal(mine, its) for mine, its in zip(first, other, strict=True))
