"""AdamW on megatron-core's distributed optimizer, and access to the shard of state that this rank owns.

The distributed optimizer lays all parameters of a model replica into one flat buffer and cuts it evenly over the
data-parallel ranks, wherever the cuts fall. What a rank owns is therefore a flat range of some parameters.
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

from megatron_octo.common.errors import OctoError
from megatron_octo.common.torch_dtypes import DTYPES
from megatron_octo.model.fused.fused_gpt import FusedGPT
from megatron_octo.model.fused.matmul.gradient_buffers import spare_zeroing
from megatron_octo.model.platform.grid import Grid
from megatron_octo.model.platform.mcore import using_transformer_engine
from megatron_octo.recipe.schema import Recipe
from megatron_octo.training.engine.step_lists import (
    StepLists,
    distributed_optimizers,
    fused_kernels,
    state_is_hidden,
)

MOMENTS = ("exp_avg", "exp_avg_sq")


def wrap_data_parallel(model: GPTModel | FusedGPT, recipe: Recipe, grid: Grid) -> DistributedDataParallel:
    """Mixed precision and data parallelism around the network. Gradients are reduced in fp32 unless asked otherwise."""
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
    """The part of one parameter that this rank updates: elements [start, end) of it, laid flat.

    Attributes:
        changed: to be called when tensors of the state were replaced.
    """

    parameter: torch.nn.Parameter
    start: int
    end: int
    owner: DistributedOptimizer
    changed: Callable[[], None]

    @property
    def _state_key(self) -> Any:
        group, order = self.owner.model_param_group_index_map[self.parameter]
        return self.owner.optimizer.param_groups[group]["params"][order]

    def read(self, kind: str) -> Tensor:
        """``main`` weights or one of the two moments (zeros before the first step): [end - start].

        The optimizer's own memory where it keeps the numbers as such; else a copy in fp32.
        """
        if self.owner.optimizer.state.get(self._state_key):
            state = self.owner._get_main_param_and_optimizer_states(self.parameter)
            found: Tensor = state["param" if kind == "main" else kind]
            return found.detach()
        if kind == "main":
            return self._state_key.detach().float()
        return torch.zeros(self.end - self.start, device=self._state_key.device)

    @torch.no_grad()
    def write(self, tensors: dict[str, Tensor], step: int) -> None:
        """Restore weights and what :meth:`read` gave of all kinds, also into an optimizer that has not stepped yet.

        Megatron-core 0.19 cannot load its own state over torch's AdamW (four faults, see docs/checkpoints.md),
        so the state is set here, one tensor a parameter, nothing shared.
        """
        optimizer, key = self.owner.optimizer, self._state_key
        self.changed()
        tensors = {name: tensor.to(key.device).float() for name, tensor in tensors.items()}
        self.parameter.view(-1)[self.start : self.end].copy_(tensors["main"])
        if hasattr(optimizer, "set_scaled_state"):  # Transformer Engine
            for name in MOMENTS:
                optimizer.set_scaled_state(key, name, tensors[name])
            if state_is_hidden(self.owner):
                optimizer.set_scaled_state(key, "master_param", tensors["main"])
                return
        else:
            state = optimizer.state[key]
            state["step"] = torch.tensor(float(step), device=key.device if key.is_cuda else None)
            for name in MOMENTS:
                state[name] = tensors[name].clone()
        key.copy_(tensors["main"].view_as(key))


class Optimizer:
    """The optimizer of a run: one step, one learning rate, and the shards of its state."""

    def __init__(self, model: DistributedDataParallel, recipe: Recipe):
        options = recipe.optimizer
        extra: dict[str, Any] = {}
        if options.state_dtype == "bf16":
            if not using_transformer_engine():
                raise OctoError(
                    "bf16 optimizer state needs Transformer Engine on a GPU",
                    where="optimizer.state_dtype",
                    hint="use fp32 or pip install -e .[gpu]",
                )
            extra = {
                "use_precision_aware_optimizer": True,
                "store_param_remainders": False,
                "main_grads_dtype": torch.bfloat16,
                "exp_avg_dtype": torch.bfloat16,
                "exp_avg_sq_dtype": torch.bfloat16,
            }
        self._inner = get_megatron_optimizer(
            OptimizerConfig(
                optimizer="adam",
                lr=options.lr,
                min_lr=options.min_lr,
                weight_decay=options.weight_decay,
                adam_beta1=options.beta1,
                adam_beta2=options.beta2,
                adam_eps=options.eps,
                clip_grad=options.clip_grad,
                bf16=recipe.train.precision == "bf16",
                params_dtype=DTYPES[recipe.train.precision],
                use_distributed_optimizer=True,
                overlap_param_gather=model.ddp_config.overlap_param_gather,
                **extra,
            ),
            [model],
            use_gloo_process_groups=False,
        )
        for owner in self._owners:
            # Without Transformer Engine and apex it is torch's AdamW, whose fused form megatron-core does not ask for.
            if isinstance(owner.optimizer, torch.optim.AdamW) and torch.cuda.is_available():
                for group in owner.optimizer.param_groups:
                    group.update(fused=True, foreach=False)
        model.config.grad_scale_func = self._inner.scale_loss
        self._lists = StepLists(self._inner, next(model.parameters()).device, fused_kernels())
        self._model = model
        self.steps = 0  # optimizer steps taken; Adam's bias correction depends on it
        self._weight_decay, self._clip_grad = options.weight_decay, options.clip_grad

    @property
    def _owners(self) -> list[DistributedOptimizer]:
        return [owner for owner in distributed_optimizers(self._inner) if not owner.is_stub_optimizer]

    def measure(self) -> float:
        """The global norm of the gradients that backward left; weights and state stay as they are. Collective."""
        return self._lists.norm()

    def update(self, learning_rate: float, grad_norm: float) -> None:
        """Clip by the norm that :meth:`measure` gave, update, gather parameters. Collective."""
        for group in self._inner.param_groups:
            group["lr"] = learning_rate
            group["weight_decay"] = self._weight_decay * group.get("wd_mult", 1.0)
        self._lists.clip(self._clip_grad, grad_norm)
        self._lists.update()
        self.steps += 1

    def step(self, learning_rate: float) -> float:
        """Both; returns the global gradient norm before clipping."""
        grad_norm = self.measure()
        self.update(learning_rate, grad_norm)
        return grad_norm

    def shards(self) -> Iterator[Shard]:
        for owner in self._owners:
            for parameter in owner.model_param_group_index_map:
                part = owner._get_model_param_range_map(parameter)["param"]
                yield Shard(parameter, part.start, part.end, owner, self._lists.forget)

    def restored(self, steps: int) -> None:
        """To be called when all shards were written, with the number of steps they had. Collective: gathers weights."""
        self._model.start_param_sync(force_sync=True)
        self.steps = steps
        # Where Transformer Engine and apex keep it (torch's AdamW: see Shard.write).
        for owner in self._owners:
            if not isinstance(owner.optimizer, torch.optim.Adam | torch.optim.AdamW):
                for group in owner.optimizer.param_groups:
                    group["step"] = steps
