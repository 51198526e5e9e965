"""Loss: sum of weighted target losses over the whole global batch, divided by the sum of the weights.

The divisor is known before the step from the row plan, so micro-batch size, data parallelism and packing do not change
a step's loss or gradients, and no rank averages averages.
"""

import torch
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
from torch import Tensor

from megatron_octo.common.errors import OctoError
from megatron_octo.config.compute import Compute
from megatron_octo.config.model import ModelConfig
from megatron_octo.model.fused.losses import CrossEntropyOfLogits
from megatron_octo.model.mcore_gpt import valid_vocabulary
from megatron_octo.model.platform.grid import Grid
from megatron_octo.model.platform.mcore import using_transformer_engine


class CrossEntropy:
    """Cross entropy of tokens over a vocabulary that is split over the tensor ranks, without padding columns.

    Attributes:
        kind: ``reference`` computes in fp32 (megatron-core); ``fused``, our kernel, and ``te``, Transformer Engine's,
            need no fp32 copy of the logits.
    """

    def __init__(self, model: ModelConfig, compute: Compute, grid: Grid):
        wanted = compute.cross_entropy
        if wanted == "auto":
            wanted = "fused" if grid.device.type == "cuda" else "reference"
        elif wanted == "te" and not using_transformer_engine():
            raise OctoError("no Transformer Engine here", where="system.cross_entropy", hint="use auto")
        self.kind = wanted
        self._group = grid.tensor_group
        self._columns = valid_vocabulary(model, grid)
        self._first = grid.tensor_rank * (model.padded_vocab_size // grid.layout.tensor)

    def __call__(self, logits_TV: Tensor, labels_T: Tensor) -> Tensor:
        """Return fp32 [tokens]; ``logits_TV`` holds this tensor rank's columns and is overwritten."""
        if self.kind == "fused":
            losses: Tensor = CrossEntropyOfLogits.apply(logits_TV, labels_T, self._columns, self._first, self._group)
            return losses
        if self._columns < logits_TV.size(1):
            # No label is a padding column, and at the lowest value it adds nothing to the softmax.
            logits_TV[:, self._columns :] = torch.finfo(logits_TV.dtype).min
        if self.kind == "te":
            from transformer_engine.pytorch.cross_entropy import parallel_cross_entropy

            te_losses: Tensor = parallel_cross_entropy(
                logits_TV.unsqueeze(0), labels_T.unsqueeze(0), 0.0, False, self._group
            )
            return te_losses.view(-1)
        reference: Tensor = vocab_parallel_cross_entropy(logits_TV.float(), labels_T)
        return reference


def weighted_loss(losses_T: Tensor, weights_T: Tensor, divisor: float) -> Tensor:
    """Return this micro-batch's part of the global batch's loss (scalar fp32)."""
    return torch.sum(losses_T * weights_T) / divisor
