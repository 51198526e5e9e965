"""Megatron-core's distributed optimizer, and access to the shards of its state that this rank owns.

The distributed optimizer lays all parameters of a model replica into one flat buffer and cuts it evenly over the
data-parallel ranks, wherever the cuts fall. A rank therefore owns a flat range of some parameters.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.transformer.module import Float16Module
from torch import Tensor

from megatron_octo.common.torch_dtypes import DTYPES
from megatron_octo.model.fused.fused_gpt import FusedGPT
from megatron_octo.model.fused.matmul.gradient_buffers import spare_zeroing
from megatron_octo.model.platform.grid import Grid
from megatron_octo.recipe.schema import Recipe
from megatron_octo.training.engine.adam import AdamW, state_is_hidden
from megatron_octo.training.engine.step_lists import StepLists, distributed_optimizers, fused_kernels


def wrap_data_parallel(model: GPTModel | FusedGPT, recipe: Recipe, grid: Grid) -> DistributedDataParallel:
    """Wrap the network for mixed precision and data parallelism; gradients are reduced in the state's dtype."""
    overlap = recipe.system.overlap and grid.device.type == "cuda" and grid.layout.data > 1
    config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=recipe.optimizer.state_dtype == "fp32",
        use_distributed_optimizer=True,
        overlap_grad_reduce=overlap,
        overlap_param_gather=overlap,
    )
    module: torch.nn.Module = model
    if recipe.train.precision == "bf16" and not isinstance(model, FusedGPT):
        module = Float16Module(model.config, model)
    wrapped = DistributedDataParallel(model.config, config, module)
    if isinstance(model, FusedGPT):
        spare_zeroing(wrapped)
    model.config.no_sync_func = wrapped.no_sync
    if overlap:
        model.config.grad_sync_func = wrapped.start_grad_sync
    return wrapped


@dataclass(frozen=True)
class Shard:
    """Part of one parameter that this rank updates: its elements [start, end), laid flat.

    Attributes:
        owner: the optimizer that updates it; ``rule``: how.
        changed: called when tensors of the state were replaced.
    """

    parameter: torch.nn.Parameter
    start: int
    end: int
    owner: DistributedOptimizer
    rule: AdamW
    changed: Callable[[], None]

    @property
    def _state_key(self) -> Any:
        group, order = self.owner.model_param_group_index_map[self.parameter]
        return self.owner.optimizer.param_groups[group]["params"][order]

    def read(self, kind: str) -> Tensor:
        """Return ``main`` weights or one kind of state (zeros before the first step): [end - start].

        The tensor is the optimizer's own memory where it keeps plain numbers; else a copy in fp32.
        """
        if self.owner.optimizer.state.get(self._state_key):
            state = self.owner._get_main_param_and_optimizer_states(self.parameter)
            found: Tensor = state["param" if kind == "main" else kind]
            return found.detach()
        if kind == "main":
            main: Tensor = self._state_key.detach().float()
            return main
        return torch.zeros(self.end - self.start, device=self._state_key.device)

    @torch.no_grad()
    def write(self, tensors: dict[str, Tensor], step: int) -> None:
        """Restore the weights and all kinds of state, also into an optimizer that has not stepped yet.

        Megatron-core 0.19 cannot load its own state over torch's AdamW (four faults, see docs/checkpoints.md), so the
        state is set here, one tensor per parameter, nothing shared.

        Args:
            tensors: as :meth:`read` returns them, by kind.
            step: optimizer steps taken.
        """
        key = self._state_key
        self.changed()
        tensors = {name: tensor.to(key.device).float() for name, tensor in tensors.items()}
        self.parameter.view(-1)[self.start : self.end].copy_(tensors["main"])
        self.rule.write_state(self.owner, key, tensors, step)
        if not state_is_hidden(self.owner):
            key.copy_(tensors["main"].view_as(key))


class Optimizer:
    """Optimizer of a run: one step, one learning rate, and the shards of its state.

    Attributes:
        steps: optimizer steps taken; the bias correction depends on it.
    """

    def __init__(self, model: DistributedDataParallel, recipe: Recipe):
        options = recipe.optimizer
        self._rule = AdamW(options)
        self._inner = get_megatron_optimizer(
            OptimizerConfig(
                lr=options.lr,
                min_lr=options.min_lr,
                weight_decay=options.weight_decay,
                clip_grad=options.clip_grad,
                bf16=recipe.train.precision == "bf16",
                params_dtype=DTYPES[recipe.train.precision],
                use_distributed_optimizer=True,
                overlap_param_gather=model.ddp_config.overlap_param_gather,
                **self._rule.core_options(),
            ),
            [model],
            use_gloo_process_groups=False,
        )
        for owner in self._owners:
            self._rule.tune(owner)
        model.config.grad_scale_func = self._inner.scale_loss
        self._lists = StepLists(self._inner, self._rule, next(model.parameters()).device, fused_kernels())
        self._model = model
        self.steps = 0
        self._weight_decay, self._clip_grad = options.weight_decay, options.clip_grad

    @property
    def _owners(self) -> list[DistributedOptimizer]:
        return [owner for owner in distributed_optimizers(self._inner) if not owner.is_stub_optimizer]

    def measure(self) -> float:
        """Return the global norm of the gradients; weights and state stay as they are. Collective."""
        return self._lists.norm()

    def update(self, learning_rate: float, grad_norm: float) -> None:
        """Clip by the norm that :meth:`measure` returned, update, gather parameters. Collective."""
        for group in self._inner.param_groups:
            group["lr"] = learning_rate
            group["weight_decay"] = self._weight_decay * group.get("wd_mult", 1.0)
        self._lists.clip(self._clip_grad, grad_norm)
        self._lists.update()
        self.steps += 1

    def step(self, learning_rate: float) -> float:
        """Measure and update; return the global gradient norm before clipping."""
        grad_norm = self.measure()
        self.update(learning_rate, grad_norm)
        return grad_norm

    def shards(self) -> Iterator[Shard]:
        """Yield what this rank updates, parameter by parameter."""
        for owner in self._owners:
            for parameter in owner.model_param_group_index_map:
                part = owner._get_model_param_range_map(parameter)["param"]
                yield Shard(parameter, part.start, part.end, owner, self._rule, self._lists.forget)

    def restored(self, steps: int) -> None:
        """Finish a restore after all shards were written: gather the weights. Collective.

        Args:
            steps: optimizer steps that they had taken.
        """
        self._model.start_param_sync(force_sync=True)
        self.steps = steps
        for owner in self._owners:
            self._rule.set_steps(owner, steps)
