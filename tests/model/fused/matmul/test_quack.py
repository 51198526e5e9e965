"""QuACK's products without a GPU: what is asked of it, with plain torch in its place; when it is taken; its kernels."""

import importlib.metadata
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from megatron_octo.common.errors import OctoError
from megatron_octo.model.fused.kernels import torch_reference
from megatron_octo.model.fused.layer_functions import Mlp
from megatron_octo.model.fused.matmul import quack
from megatron_octo.model.fused.matmul.matmul_backend import Arithmetic
from megatron_octo.model.fused.matmul.matmul_choice import arithmetic_of
from megatron_octo.recipe.schema import Recipe
from tests.model.attention.test_attention_check import on_a_cpu
from tests.model.configs import given
from tests.model.fused.matmul.test_matmul_backend import ALONE, compare, leaves

GPU = torch.device("cuda")


def stand_in(wrong: str = "") -> SimpleNamespace:
    """What ``epilogues`` computes; with one of its four results wrong by a tenth."""

    def spoilt(name: str, result: Tensor) -> Tensor:
        return 1.1 * result if name == wrong else result

    def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
        before = torch.nn.functional.linear(x.float(), weight.float(), bias.float())
        activated = torch_reference.gelu_forward(before, exact)  # of what is not rounded yet
        return spoilt("before", before.to(x.dtype)), spoilt("activated", activated.to(x.dtype))

    def gelu_gradient(d: Tensor, weight: Tensor, before: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
        gradient, total = torch_reference.gelu_backward(d.float() @ weight.float(), before.float(), exact)
        return spoilt("gradient", gradient.to(d.dtype)), spoilt("total", total)

    return SimpleNamespace(linear_gelu=linear_gelu, gelu_gradient=gelu_gradient)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_the_mlp_is_the_same(exact: bool, recompute: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quack, "_epilogues", stand_in)
    inputs = leaves((48, 32), (64, 32), (64,), (32, 64))
    ours, theirs = (Mlp.apply(*inputs, ALONE, recompute, kind(exact)) for kind in (quack.QuackArithmetic, Arithmetic))
    compare([ours], [theirs], inputs)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A GPU machine of which a test says what is installed."""
    found = SimpleNamespace(quack="0.6.5", capability=(9, 0), wrong="")

    def version(name: str) -> str:
        if not found.quack:
            raise importlib.metadata.PackageNotFoundError(name)
        return str(found.quack)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: found.capability)
    monkeypatch.setattr(quack, "_epilogues", lambda: stand_in(found.wrong))
    on_a_cpu(monkeypatch)
    return found


def test_what_auto_takes(make_recipe: Callable[..., Recipe], machine: SimpleNamespace) -> None:
    for activation in ("gelu", "gelu_tanh"):
        recipe = make_recipe(train={"precision": "bf16"}, model={"activation": activation})
        taken = arithmetic_of(recipe.model, recipe.compute, GPU)
        assert (taken.name, str(taken)) == ("quack", "QuACK (quack-kernels 0.6.5)")
        assert taken.exact == (activation == "gelu")
    plain = arithmetic_of(*given(make_recipe(train={"precision": "bf16"}, system={"mlp": "plain"})), GPU)
    assert (plain.name, str(plain)) == ("plain", "torch's")
    machine.quack = None
    assert str(arithmetic_of(recipe.model, recipe.compute, GPU)) == "torch's"
    with pytest.raises(OctoError, match=r"not installed \(pip install -e .\[flash4\]\)"):
        arithmetic_of(*given(make_recipe(train={"precision": "bf16"}, system={"mlp": "quack"})), GPU)


@pytest.mark.parametrize(
    ("train", "changes", "words"),
    [
        ("fp32", {}, "used for bf16 alone, not fp32"),
        ("bf16", {"capability": (10, 0)}, "used on Hopper alone, not on sm_100"),
        *(("bf16", {"wrong": name}, "0.6.5 computes something else here: relative error 0.1")
          for name in ("before", "activated", "gradient", "total")),
    ],
)  # fmt: skip
def test_reasons_are_reported(
    train: str,
    changes: dict[str, Any],
    words: str,
    make_recipe: Callable[..., Recipe],
    machine: SimpleNamespace,
) -> None:
    machine.__dict__.update(changes)
    taken = arithmetic_of(*given(make_recipe(train={"precision": train})), GPU)
    assert type(taken) is Arithmetic and "torch's; not QuACK's: " in str(taken) and words in str(taken)
    with pytest.raises(OctoError, match=words):
        arithmetic_of(*given(make_recipe(train={"precision": train}, system={"mlp": "quack"})), GPU)


def test_on_a_cpu(make_recipe: Callable[..., Recipe]) -> None:
    assert type(arithmetic_of(*given(make_recipe()), torch.device("cpu"))) is Arithmetic
    with pytest.raises(OctoError, match="QuACK needs a GPU"):
        asked = make_recipe(train={"precision": "bf16"}, system={"mlp": "quack"})
        arithmetic_of(*given(asked), torch.device("cpu"))


def test_the_kernels_compile(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Where QuACK is installed: it compiles them for Hopper, without a GPU; sums are of tiles of rows."""
    for name, value in (
        ("QUACK_ARCH", "90"),
        ("CUTE_DSL_ARCH", "sm_90a"),
        ("QUACK_CACHE_DIR", str(tmp_path)),
    ):
        monkeypatch.setenv(name, value)
    if not quack.LIBRARY.installed:
        pytest.skip("quack-kernels is not installed")
    import cutlass

    from megatron_octo.model.fused.kernels import gelu_epilogues as epilogues

    monkeypatch.setattr(cutlass.utils.HardwareInfo, "__init__", lambda self, *_: None)
    monkeypatch.setattr(
        cutlass.utils.HardwareInfo, "get_max_active_clusters", lambda self, cluster_size: 132 // cluster_size
    )
    x, up, bias, down, inner = (
        torch.empty(shape, dtype=torch.bfloat16) for shape in ((1000, 256), (512, 256), (512,), (256, 512), (1000, 512))
    )
    for kernel in (epilogues._tanh_forward, epilogues._exact_forward):
        kernel.plan(x, up.t(), out={"D": inner, "activated": inner.clone()}, bias=bias)
    for kernel in (epilogues._tanh_backward, epilogues._exact_backward):
        plan = kernel.plan(x, down, inner, out={"D": inner.clone()})
        (tiles, columns) = plan.scratch["total"].shape
        assert columns == 512 and tiles == -(-1000 // plan.config.tile_m)
    assert list(tmp_path.rglob("*.o"))
