"""Network with its optimizer: forward, backward, evaluate. Reads no files and no clock."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.models.gpt import GPTModel
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from megatron_octo.checkpoint.source import Source
from megatron_octo.common.errors import OctoError
from megatron_octo.model.attention.backend import Backend, choose_backend
from megatron_octo.model.attention.packed_attention import packed_params
from megatron_octo.model.fused.comm.tensor_ranks import sum_shared_gradients
from megatron_octo.model.fused.core_attention import Documents
from megatron_octo.model.fused.fused_gpt import FusedGPT
from megatron_octo.model.fused.matmul.matmul_backend import Arithmetic
from megatron_octo.model.mcore_gpt import build_model
from megatron_octo.model.platform.grid import Grid
from megatron_octo.model.weights import init_weights, load_weights
from megatron_octo.recipe.schema import Recipe
from megatron_octo.training.engine.batches import MicroBatch, StepBatch, to_device
from megatron_octo.training.engine.loss import CrossEntropy, weighted_loss
from megatron_octo.training.engine.optimizer import Optimizer, wrap_data_parallel
from megatron_octo.training.engine.randomness import randomness_kept

# Computations whose kernels may differ between machines: name, option in a recipe, values that need little.
_ATTENTION = ("attention", "system.attention", "te or torch")
_MLP = ("the MLP", "system.mlp", "plain")


def _agree(taken: Backend | Arithmetic, what: str, option: str, modest: str) -> None:
    """Check that all ranks, each of which looked at its own machine, took the same kernels. Collective.

    Raises:
        OctoError: they did not.
    """
    texts: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(texts, taken.description)
    other = next((rank for rank, text in enumerate(texts) if text != texts[0]), None)
    if other is not None:
        raise OctoError(
            f"ranks would compute {what} differently. Rank 0: {texts[0]}. Rank {other}: {texts[other]}",
            where=option,
            hint=f"install the same on all nodes, or ask for what all have ({option}={modest})",
        )


class Network:
    """Model with everything that one optimizer step needs.

    Attributes:
        core: the model without wrappers.
        kernels: names of the chosen kernels by what they compute, for records; ``chosen``: the same in words.
    """

    def __init__(self, recipe: Recipe, grid: Grid):
        self.recipe, self.grid = recipe, grid
        self.setup = (recipe.model, recipe.compute)
        self.backend = choose_backend(*self.setup, grid.device)
        _agree(self.backend, *_ATTENTION)
        self.fused = recipe.compute.fused
        self.core: GPTModel | FusedGPT = (
            FusedGPT(*self.setup, grid, self.backend) if self.fused else build_model(*self.setup, grid, self.backend)
        )
        self.kernels, self.chosen = {"attention": self.backend.name}, f"attention: {self.backend}"
        if isinstance(self.core, FusedGPT):
            arithmetic = self.core.arithmetic
            _agree(arithmetic, *_MLP)
            self.kernels["mlp"] = arithmetic.name
            self.chosen += f"; MLP: {arithmetic}"
        self.cross_entropy = CrossEntropy(*self.setup, grid)
        self._clear = False  # whether the gradients are zero
        self._trained: tuple[DistributedDataParallel, Optimizer] | None = None

    @property
    def started(self) -> bool:
        """Whether :meth:`start_from` was called."""
        return self._trained is not None

    @property
    def model(self) -> DistributedDataParallel:
        """The model wrapped for training, once :meth:`start_from` was called."""
        assert self._trained, "start_from comes first"
        return self._trained[0]

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer, once :meth:`start_from` was called."""
        assert self._trained, "start_from comes first"
        return self._trained[1]

    def start_from(self, reader: Source | None, resumed: bool = False) -> None:
        """Give the weights their initial values, from a checkpoint or fresh, and wrap them for training.

        The optimizer copies its fp32 weights when it is built, so the weights come first.

        Args:
            reader: weights to load; None to draw all of them.
            resumed: leave trained weights without values; ``load_state`` sets them.
        """
        if reader:
            load_weights(reader, self.core, *self.setup, self.grid)
        if not resumed and (self.recipe.lora or not reader):
            init_weights(self.core, *self.setup, self.grid, only_trained=reader is not None)
        model = wrap_data_parallel(self.core, self.recipe, self.grid)
        self._trained = model, Optimizer(model, self.recipe)
        self.core.config.finalize_model_grads_func = self._finalize_gradients

    def _finalize_gradients(self, model: Any, num_tokens: Any = None, **options: Any) -> None:
        # Gradients are summed and already divided (loss.py), so mcore's token count is not used.
        finalize_model_grads(model, **options)
        sum_shared_gradients(self.core, self.grid)

    def _forward(self, batch: StepBatch, model: Any) -> Any:
        micro_batches = iter(batch.micro_batches)

        def forward_step(_: Any, chunk: Any) -> Any:
            micro = to_device(next(micro_batches), self.grid.device)
            if self.fused:
                documents = Documents(micro.boundaries, micro.longest, micro.whole_rows)
                output = chunk(micro.tokens_1T, micro.positions_1T, documents, micro.labels_T)
            else:
                packed = packed_params(micro.boundaries, micro.longest)
                output = chunk(micro.tokens_1T, micro.positions_1T, None, packed_seq_params=packed, **unrounded)
            return output, lambda last: self._loss(last, micro, batch.divisor)

        # Megatron-core's wrapper would copy bf16 logits to fp32 and back.
        unrounded = {} if self.recipe.compute.precision == "fp32" else {"fp32_output": False}
        return forward_step

    def _loss(self, output: Tensor, micro: MicroBatch, divisor: float) -> tuple[Tensor, Tensor, Tensor]:
        losses = output if self.fused else self.cross_entropy(output[0], micro.labels_T)
        loss = weighted_loss(losses, micro.weights_T, divisor)
        return loss, torch.zeros((), dtype=torch.int, device=loss.device), loss.detach()

    def _run(self, batch: StepBatch, forward_only: bool) -> Tensor:
        parts = get_forward_backward_func()(
            forward_step_func=self._forward(batch, self.model),
            data_iterator=None,
            model=[self.model],
            num_microbatches=len(batch.micro_batches),
            seq_length=self.recipe.compute.micro_tokens,
            micro_batch_size=1,  # rows are laid end to end
            forward_only=forward_only,
        )
        return torch.stack(parts).sum() if parts else torch.zeros((), device=self.grid.device)

    def clear_gradients(self) -> None:
        """Zero the gradients, unless they are zero; best right after an update, when the GPU has time."""
        if not self._clear:
            self.model.zero_grad_buffer()
        self._clear = True

    def gradients(self, batch: StepBatch) -> Tensor:
        """Run forward and backward of a step, reduce the gradients, return this replica's part of the loss."""
        self.clear_gradients()
        self._clear = False
        return self._run(batch, forward_only=False)

    @torch.no_grad()
    def evaluate(self, batch: StepBatch) -> Tensor:
        """Return this replica's part of a batch's loss, without dropout and gradients; no state changes.

        Transformer Engine's attention with dropout draws random numbers even where it drops nothing. Without restoring
        them a run resumed from before a validation would have other masks than one that went on.
        """
        self.model.eval()
        try:
            with randomness_kept(self.grid):
                return self._run(batch, forward_only=True)
        finally:
            self.model.train()

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Keep the weights complete on every rank inside; otherwise overlapped gathering may be under way."""
        overlap = self.model.ddp_config.overlap_param_gather
        if overlap:
            self.model.disable_forward_pre_hook(param_sync=True)
        yield
        if overlap:
            self.model.enable_forward_pre_hook()
