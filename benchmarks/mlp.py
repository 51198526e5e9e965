"""Measure the MLP's products with gelu and its gradient on one GPU: QuACK's kernels beside cuBLAS'.

    python -m benchmarks.mlp recipes/santacoderpack.yaml --output benchmarks/results/mlp.jsonl

For a micro-batch of the recipe's model: the first linear layer with gelu, and gelu's gradient from the second layer's,
with the sum for the bias; for gelu and for its tanh approximation. They and torch's plain product take turns, so that
all run on an equally warm card; times are medians of the rounds in microseconds. TFLOP/s count the product. Errors are
relative to fp32, the largest of all outputs.
"""

import functools
import json
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.support.machine import keep, machine
from benchmarks.support.training import parser_of
from megatron_octo.model.fused.matmul.matmul_backend import Arithmetic
from megatron_octo.model.platform.mcore import load_mcore
from megatron_octo.model.platform.optional_library import relative
from megatron_octo.recipe.loading import load_recipe

_CALLS, _ROUNDS = 30, 7


def microseconds(function: Callable[[], Any]) -> float:
    """Return the mean time of a call on the GPU."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(_CALLS):
        function()
    end.record()
    torch.cuda.synchronize()
    return 1e3 * float(start.elapsed_time(end)) / _CALLS


def error(found: list[Tensor], expected: list[Tensor]) -> float:
    """Return the largest relative error of the outputs."""
    return max(float(relative(mine, its)) for mine, its in zip(found, expected, strict=True))


def main() -> int:
    """Print and keep one row per product and form of gelu."""
    arguments = parser_of(__doc__).parse_intermixed_args()
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    load_mcore()
    from megatron_octo.model.fused.matmul.quack import LIBRARY, QuackArithmetic, in_fp32, why_not

    if problem := why_not(recipe.model, recipe.compute):
        raise SystemExit(problem)
    rows = recipe.batch.micro_size * recipe.data.seq_length
    hidden, inner = recipe.model.hidden_size, recipe.model.ffn_hidden_size // recipe.parallel.tensor

    torch.manual_seed(0)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(shape, dtype=torch.bfloat16, device="cuda")

    x, d, before, bias = draw(rows, hidden), draw(rows, hidden), draw(rows, inner), draw(inner)
    up, down = (draw(*shape, scale=hidden**-0.5) for shape in ((inner, hidden), (hidden, inner)))
    for exact in (False, True):
        kinds = {"plain": Arithmetic(exact), "quack": QuackArithmetic(exact)}
        products: dict[str, dict[str, Callable[[], Any]]] = {
            "forward": {n: functools.partial(a.linear_gelu, x, up, bias) for n, a in kinds.items()},
            "backward": {n: functools.partial(a.gelu_gradient, d, down, before) for n, a in kinds.items()},
        }
        for way, functions in products.items():
            expected = in_fp32(x, up, bias, d, down, before, exact)
            expected = expected[:2] if way == "forward" else expected[2:]
            errors = {name: error([*function()], expected) for name, function in functions.items()}
            del expected
            other = (x, up.t()) if way == "forward" else (d, down)
            functions["alone"] = functools.partial(torch.mm, *other)
            for function in functions.values():
                microseconds(function)
            turns = [{name: microseconds(f) for name, f in functions.items()} for _ in range(_ROUNDS)]
            times = {name: statistics.median(turn[name] for turn in turns) for name in functions}
            line = {
                "product": way,
                "gelu": "exact" if exact else "tanh",
                "shape": [rows, hidden, inner],
                **{f"{name}_us": round(time, 1) for name, time in times.items()},
                **{f"{n}_tflops": round(2e-6 * rows * hidden * inner / t, 1) for n, t in times.items()},
                "ratio": round(times["plain"] / times["quack"], 3),
                **{f"{name}_error": float(f"{value:.3g}") for name, value in errors.items()},
                "quack": str(LIBRARY),
                "plain": str(kinds["plain"]),
            }
            print(json.dumps(line), flush=True)
            keep(
                arguments.output,
                {**line, "recipe": arguments.recipe, "overrides": arguments.overrides, "machine": machine()},
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
