"""Optimizer steps over lists of tensors that are gathered once.

Megatron-core and Transformer Engine look up every parameter's gradient, shard and state in Python several times per
step, right after the host has waited for the gradient norm, while the GPU is idle. None of these tensors moves between
steps. They are gathered once, and a step is a few calls over whole lists.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor

from megatron_octo.model.platform.mcore import using_transformer_engine
from megatron_octo.training.engine.adam import BLOCK, AdamW, state_is_hidden


def fused_kernels() -> Any:
    """Return Transformer Engine's kernels over lists, or None where megatron-core's optimizer is torch's."""
    if not using_transformer_engine():
        return None
    import transformer_engine_torch

    return transformer_engine_torch


def distributed_optimizers(inner: MegatronOptimizer) -> list[DistributedOptimizer]:
    """Return the optimizers of a chain; one without trained parameters is a stub without state."""
    chained = getattr(inner, "chained_optimizers", [inner])
    return [owner for owner in chained if isinstance(owner, DistributedOptimizer)]


@dataclass
class _Lists:
    """Tensors of the shards that this rank updates.

    Attributes:
        gradients: flat parts of the buffer that data parallelism reduces.
        counted: those that count for the norm; parameters that tensor ranks hold alike count once.
        main: fp32 weights, flat; without Transformer Engine.
        model: the bf16 weights that they are copied to, in the same order.
        calls: of Transformer Engine's kernel: a parameter group and the lists of some of its tensors.
    """

    gradients: list[Tensor] = field(default_factory=list)
    counted: list[Tensor] = field(default_factory=list)
    main: list[Tensor] = field(default_factory=list)
    model: list[Tensor] = field(default_factory=list)
    calls: list[tuple[dict[str, Any], list[list[Tensor]]]] = field(default_factory=list)


class StepLists:
    """Norm, clipping and update of a chain of distributed optimizers.

    Args:
        inner: megatron-core's optimizer; its ``zero_grad`` must not be called, it would drop the gradients' views.
        rule: the update rule.
        device: of the weights.
        kernels: result of :func:`fused_kernels`.
    """

    def __init__(self, inner: MegatronOptimizer, rule: AdamW, device: torch.device, kernels: Any):
        self._inner, self._rule, self._kernels = inner, rule, kernels
        self._owners = distributed_optimizers(inner)
        self._go = torch.zeros(1, dtype=torch.int, device=device)  # a flag that the update's kernel only reads
        self._made: _Lists | None = None

    def forget(self) -> None:
        """Gather the tensors again before the next step, since some of the state was replaced."""
        self._made = None

    @torch.no_grad()
    def norm(self) -> float:
        """Return the L2 norm of all gradients of the model. Collective; waits for the GPU."""
        squared = torch.zeros(1, device=self._go.device)
        if counted := self._ready().counted:
            if self._kernels:
                # A new flag each time: a norm that is not finite sets it, and a set flag stops a kernel.
                flag = torch.zeros_like(self._go)
                squared = self._kernels.multi_tensor_l2norm(BLOCK, flag, [counted], False)[0] ** 2
            else:
                norms = torch.stack(torch._foreach_norm(counted))
                squared = torch.linalg.vector_norm(norms).view(1) ** 2
        dist.all_reduce(squared, group=self._inner.get_grad_stats_parallel_group())
        return float(squared.item() ** 0.5)

    @torch.no_grad()
    def clip(self, largest: float, norm: float) -> None:
        """Scale all gradients so that their norm, now ``norm``, is at most ``largest``."""
        factor = largest / (norm + 1e-6)
        gradients = self._ready().gradients
        if not (factor < 1 and gradients):
            return
        if self._kernels:
            flag = torch.zeros_like(self._go)
            self._kernels.multi_tensor_scale(BLOCK, flag, [gradients, gradients], factor)
        else:
            torch._foreach_mul_(gradients, factor)

    @torch.no_grad()
    def update(self) -> None:
        """Update the weights that this rank owns at the rates of the parameter groups, and gather. Collective."""
        lists = self._ready()
        for owner in self._owners:
            if state_is_hidden(owner):
                owner.step_with_ready_grads()
            elif self._kernels:
                for group in owner.param_groups:
                    group["step"] = group.get("step", 0) + 1
            elif not owner.is_stub_optimizer:
                owner.optimizer.step()
        for group, tensors in lists.calls:
            self._rule.call(self._kernels, self._go, group, tensors)
        if lists.model:
            torch._foreach_copy_(lists.model, lists.main)
        for owner in self._owners:
            # As DistributedOptimizer.step_with_ready_grads; overlapped gathering begins with the next forward pass.
            if not state_is_hidden(owner) and not owner.ddp_config.overlap_param_gather:
                owner.start_param_sync_for_bucket_group_subset()

    def _ready(self) -> _Lists:
        if self._made is None:
            self._made = _Lists()
            for owner in self._owners:
                if not owner.is_stub_optimizer:
                    self._gather(owner, self._made)
        return self._made

    def _gather(self, owner: DistributedOptimizer, lists: _Lists) -> None:
        owner.prepare_grads()  # gives every shard its part of the gradient buffer
        hidden = state_is_hidden(owner)
        name = "decoupled_grad" if hidden else "grad"
        gradients = [getattr(parameter, name) for parameter in owner.get_parameters()]
        buffers = {buffer.grad_data.untyped_storage().data_ptr() for buffer in owner.buffers}
        # A copy would hold the first step's gradients for ever.
        if any(gradient.untyped_storage().data_ptr() not in buffers for gradient in gradients):
            raise RuntimeError("gradients of the optimizer lie outside the buffer that is reduced")
        lists.gradients += gradients
        lists.counted += owner.get_grads_for_grad_norm()
        if hidden:
            return
        halves = [[shard.detach() for shard in group] for group in owner.shard_float16_groups]
        mains = [[shard.detach() for shard in group] for group in owner.shard_fp32_from_float16_groups]
        if not self._kernels:
            lists.model += [shard for group in halves for shard in group]
            lists.main += [shard for group in mains for shard in group]
            return
        owner.init_state_fn(owner.optimizer, owner.config)  # moments, where there are none yet
        for group, half in zip(owner.optimizer.param_groups, halves, strict=True):
            # First the weights that are fp32 throughout, then those with a bf16 copy, which the kernel writes, too.
            whole = len(group["params"]) - len(half)
            for main, model in ((group["params"][:whole], []), (group["params"][whole:], half)):
                lists.calls += [(group, each) for each in self._rule.kernel_calls(owner, main, model)]
