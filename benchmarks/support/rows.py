"""Batches whose documents lie in other rows than planned, which must not change losses and gradients."""

import dataclasses
import itertools
from typing import Any

import torch
from torch import Tensor

from megatron_octo.recipe.schema import Recipe
from megatron_octo.training.engine.batches import StepBatch

# As planned; each document in a padded row of its own; packed in reverse order.
ROWS = ("packed", "padded", "backwards")
Document = tuple[Tensor, Tensor, Tensor]  # tokens, labels, weights


def laid_out(documents: list[Document], length: int, width: int, align: int) -> dict[str, Any]:
    """Return the fields of a micro-batch of documents, each from a multiple of ``align`` on, padded between."""
    pieces: list[Document] = []
    boundaries = [0]
    for number, document in enumerate(documents):
        pieces.append(document)
        boundaries.append(boundaries[-1] + len(document[0]))
        end = length if number == len(documents) - 1 else -(-boundaries[-1] // align) * align
        while gap := min(end - boundaries[-1], width):
            zeros = torch.zeros(gap, dtype=torch.long)
            pieces.append((zeros, zeros, torch.zeros(gap)))
            boundaries.append(boundaries[-1] + gap)
    tokens, labels, weights = (torch.cat(column) for column in zip(*pieces, strict=True))
    positions = torch.cat([torch.arange(len(piece[0])) for piece in pieces])
    return {
        **{
            "tokens_1T": tokens[None],
            "positions_1T": positions[None],
            "labels_T": labels,
            "weights_T": weights,
        },
        **{"boundaries": torch.tensor(boundaries, dtype=torch.int32), "longest": width, "whole_rows": 0},
    }


def rearranged(batch: StepBatch, rows: str, recipe: Recipe) -> StepBatch:
    """Return a batch with its documents in other rows, without the documents that have no loss."""
    if rows == "packed":
        return batch
    width, size = recipe.data.seq_length, recipe.batch.micro_size
    micros = []
    for micro in batch.micro_batches:
        columns = (micro.tokens_1T[0], micro.labels_T, micro.weights_T)
        documents: list[Any] = [
            tuple(column[start:end] for column in columns)
            for start, end in itertools.pairwise(micro.boundaries.tolist())
            if micro.weights_T[start:end].any()
        ]
        if rows == "backwards":
            micros.append(dataclasses.replace(micro, **laid_out(documents[::-1], size * width, width, 1)))
            continue
        for start in range(0, len(documents), size):
            fields = laid_out(documents[start : start + size], size * width, width, width)
            micros.append(dataclasses.replace(micro, **fields))
    return dataclasses.replace(batch, micro_batches=micros)
