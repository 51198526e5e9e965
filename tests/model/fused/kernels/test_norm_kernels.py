"""The Triton kernels against their reference, run by Triton's interpreter: the very code, without a GPU."""

import os
import subprocess
import sys

PROGRAM = """
import torch
from megatron_octo.model.fused.kernels import gelu_kernels, norm_kernels as kernels, reference
from megatron_octo.model.fused.kernels.amax import noted
from megatron_octo.model.fused.kernels.table_rows import add_rows_
from megatron_octo.model.fused.kernels.column_sums import column_sums

generator = torch.Generator().manual_seed(0)


def normal(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=generator).to(dtype)


def same(ours, theirs, tolerance):
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.float(), other.float(), rtol=tolerance, atol=tolerance)


def measured(with_note, without):
    assert torch.equal(with_note, without)
    assert noted(without) is None and noted(with_note).max() == without.abs().max()


for dtype, tolerance in ((torch.float32, 2e-5), (torch.bfloat16, 2e-2)):
    rows, width = 37, 96  # neither a power of two
    residual, delta = (3 * normal(rows, width, dtype=dtype) for _ in range(2))
    bias, weight, shift = (normal(width, dtype=dtype) for _ in range(3))
    for added in (True, False):
        arguments = (residual, delta if added else None, bias if added else None, weight, shift, 1e-5, 0.0, 0)
        ours, theirs = kernels.add_norm_forward(*arguments), reference.add_norm_forward(*arguments)
        same(ours, theirs, tolerance)
        measured(kernels.add_norm_forward(*arguments, True)[1], ours[1])
        summed, _, mean, rstd = theirs
        gradients = normal(rows, width, dtype=dtype), normal(rows, width, dtype=dtype)
        arguments = (*gradients, summed, weight, mean, rstd, added, 0.0, 0)
        ours = kernels.add_norm_backward(*arguments)
        same(ours, reference.add_norm_backward(*arguments), 3 * tolerance)
        if added:
            measured(kernels.add_norm_backward(*arguments, True)[1], ours[1])

    # So wide that a program takes several rows, one more than another.
    *gradients, summed = (normal(270, 2100, dtype=dtype) for _ in range(3))
    mean, rstd = summed.float().mean(1), 1 / summed.float().std(1)
    arguments = (*gradients, summed, normal(2100, dtype=dtype), mean, rstd, True, 0.0, 0)
    same(kernels.add_norm_backward(*arguments), reference.add_norm_backward(*arguments), 5 * tolerance)

    x, dy = 2 * normal(300, 260, dtype=dtype), normal(300, 260, dtype=dtype)
    for exact in (True, False):
        ours = gelu_kernels.gelu_forward(x, exact)
        same([ours], [reference.gelu_forward(x, exact)], tolerance)
        measured(gelu_kernels.gelu_forward(x, exact, True), ours)
        assert gelu_kernels.gelu_largest(x, exact).max() == ours.abs().max()
        ours = gelu_kernels.gelu_backward(dy, x, exact)
        same(ours, reference.gelu_backward(dy, x, exact), 3 * tolerance)
        measured(gelu_kernels.gelu_backward(dy, x, exact, True)[0], ours[0])

    # One row, fewer than a tile's, more than are summed at once; a part of a wider matrix.
    for rows, width in ((1, 3), (31, 100), (1025, 70), (4133, 64)):
        x = normal(rows, width + 8, dtype=dtype)[:, 8:]
        same([column_sums(x)], [reference.column_sums(x)], 1e-4 * rows**0.5)
    x = normal(40, 70, dtype=dtype).t()
    same([column_sums(x)], [reference.column_sums(x)], 1e-3)

    logits, losses = 4 * normal(9, 5000, dtype=dtype), normal(9)
    losses[3] = 0.0
    for first, valid in ((0, 5000), (0, 4990), (5000, 4999), (100, 4000)):
        labels = torch.randint(10_000, (9,), generator=generator)
        labels[0] = first + valid - 1
        ours = kernels.cross_entropy_forward(logits, labels, valid, first)
        theirs = reference.cross_entropy_forward(logits, labels, valid, first)
        same(ours, theirs, tolerance)
        mine, other = logits.clone(), logits.clone()
        kernels.cross_entropy_backward_(mine, labels, theirs[0], losses, valid, first)
        reference.cross_entropy_backward_(other, labels, theirs[0], losses, valid, first)
        same([mine], [other], tolerance)

    # Rows of a table: alone, not at all, one more than a tile, many; some are elsewhere. Wider than one program.
    numbers = torch.randint(-3, 60, (90,), generator=generator)
    numbers[:43], numbers[50:55], numbers[-1] = 7, 50, 51
    for columns in (1, 1100):
        d, table = normal(90, columns, dtype=dtype), normal(55, columns, dtype=dtype)
        mine, other = table.clone(), table.clone()
        add_rows_(mine, numbers, d)
        reference.add_rows_(other, numbers, d)
        same([mine], [other], tolerance)
        for row in (7, 49, 50, 51):
            expected = table[row].float() + d[numbers == row].float().sum(0)
            same([other[row]], [expected], tolerance)

# Dropout draws numbers of its own: its rate, its scale, and the same mask forwards and backwards.
rows, width, p = 64, 128, 0.25
ones, zeros = torch.ones(rows, width), torch.zeros(rows, width)
line = torch.zeros(width)
summed, _, mean, rstd = kernels.add_norm_forward(zeros, ones, line, line, line, 1e-5, p, 7)
torch.testing.assert_close(summed.unique(), torch.tensor([0.0, 1 / (1 - p)]))
assert abs((summed == 0).float().mean() - p) < 0.02
d_residual, d_delta, sums = kernels.add_norm_backward(ones, zeros, summed, line, mean, rstd, True, p, 7)
assert torch.equal(d_delta, summed) and torch.equal(d_residual, ones)
torch.testing.assert_close(sums[2], summed.sum(0))
other = kernels.add_norm_forward(zeros, ones, line, line, line, 1e-5, p, 8)[0]
assert not torch.equal(other, summed)
# The delta's gradient is what dropout left of the residual's.
few = kernels.add_norm_backward(normal(rows, width), zeros, summed, line, mean, rstd, True, p, 7, True)
assert noted(few[0]) is None and noted(few[1]).max() == few[1].abs().max() != few[0].abs().max()

# Scales for fp8: more parts than are read at a time, the largest number at either end; nothing, infinity, very little.
for place in (0, 8191, 8192, 19_999):
    parts = torch.rand(20_000, generator=generator)
    parts[place] = 7.0
    assert gelu_kernels.fp8_scale(parts, 448.0) == 64.0
for largest, scale in ((0.0, 1.0), (float("inf"), float("nan")), (1e-38, 448 * 2.0**100)):
    found = gelu_kernels.fp8_scale(torch.tensor([0.0, largest]), 448.0)
    torch.testing.assert_close(found, torch.tensor([scale]), equal_nan=True)
print("all the same")
"""


def test_kernels_compute_what_their_reference_says() -> None:
    # Triton decides at import whether it interprets: a process of its own.
    environment = dict(os.environ, TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=300
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == "all the same\n"
