"""The optimizer step over lists of tensors that are made once.

Megatron-core and Transformer Engine ask every parameter in Python for its gradient, its shard and its state, several
times a step, and just after the host has waited for the gradients' norm: the GPU has nothing to do meanwhile. None of
these tensors moves between steps. So they are gathered once, and a step is a few calls over whole lists.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor

from megatron_octo.model.platform.mcore import using_transformer_engine

_BLOCK = 2048 * 32  # elements that a block of Transformer Engine's kernels takes: its own choice
_LONGEST = 1024  # tensors in one call of its Adam, as in its FusedAdam


def fused_kernels() -> Any:
    """Transformer Engine's kernels over lists, or None where megatron-core's optimizer is not its FusedAdam."""
    if not using_transformer_engine():
        return None
    import transformer_engine_torch

    return transformer_engine_torch


def distributed_optimizers(inner: MegatronOptimizer) -> list[DistributedOptimizer]:
    """The links of the chain; one that has nothing to train is a stub without state."""
    chained = getattr(inner, "chained_optimizers", [inner])
    return [owner for owner in chained if isinstance(owner, DistributedOptimizer)]


@dataclass
class _Lists:
    """Attributes:

    gradients: of all that this rank updates, flat parts of the buffer that data parallelism reduces.
    counted: those of them that count for the norm; what tensor ranks hold alike counts once.
    main, model: fp32 weights and the bf16 weights to copy them to, flat and in one order; without Transformer Engine.
    adam: calls of Transformer Engine's Adam: a parameter group and the lists of some of its tensors.
    """

    gradients: list[Tensor] = field(default_factory=list)
    counted: list[Tensor] = field(default_factory=list)
    main: list[Tensor] = field(default_factory=list)
    model: list[Tensor] = field(default_factory=list)
    adam: list[tuple[dict[str, Any], list[list[Tensor]]]] = field(default_factory=list)


class StepLists:
    """Norm, clipping and update of a chain of distributed optimizers.

    Args:
        inner: megatron-core's optimizer; its ``zero_grad`` must not be called, it would drop the gradients' views.
        device: of the weights.
        kernels: what :func:`fused_kernels` gives.
    """

    def __init__(self, inner: MegatronOptimizer, device: torch.device, kernels: Any):
        self._inner, self._kernels = inner, kernels
        self._owners = distributed_optimizers(inner)
        self._go = torch.zeros(1, dtype=torch.int, device=device)  # a flag that Adam's kernel reads only
        self._made: _Lists | None = None

    def forget(self) -> None:
        """Gather the tensors anew before the next step: some of the state was replaced."""
        self._made = None

    @torch.no_grad()
    def norm(self) -> float:
        """The L2 norm of all gradients of the model. Collective; waits for the GPU."""
        squared = torch.zeros(1, device=self._go.device)
        if counted := self._ready().counted:
            if self._kernels:
                # The flag is a fresh one each time: a norm that is not finite sets it, and a set one stops a kernel.
                flag = torch.zeros_like(self._go)
                squared = self._kernels.multi_tensor_l2norm(_BLOCK, flag, [counted], False)[0] ** 2
            else:
                norms = torch.stack(torch._foreach_norm(counted))
                squared = torch.linalg.vector_norm(norms).view(1) ** 2
        dist.all_reduce(squared, group=self._inner.get_grad_stats_parallel_group())
        return float(squared.item() ** 0.5)

    @torch.no_grad()
    def clip(self, largest: float, norm: float) -> None:
        """Scale all gradients down to the norm ``largest`` if theirs is above it."""
        factor = largest / (norm + 1e-6)
        gradients = self._ready().gradients
        if not (factor < 1 and gradients):
            return
        if self._kernels:
            flag = torch.zeros_like(self._go)
            self._kernels.multi_tensor_scale(_BLOCK, flag, [gradients, gradients], factor)
        else:
            torch._foreach_mul_(gradients, factor)

    @torch.no_grad()
    def update(self) -> None:
        """Update the weights that this rank owns, with the rates in the parameter groups, and gather. Collective."""
        lists = self._ready()
        for owner in self._owners:
            if state_is_hidden(owner):
                owner.step_with_ready_grads()
            elif self._kernels:
                for group in owner.param_groups:
                    group["step"] = group.get("step", 0) + 1
            elif not owner.is_stub_optimizer:
                owner.optimizer.step()
        for group, tensors in lists.adam:
            self._kernels.multi_tensor_adam(
                _BLOCK,
                self._go,
                tensors,
                group["lr"],
                *group["betas"],
                group["eps"],
                group["step"],
                1,  # AdamW
                1,  # with correction of the bias
                group["weight_decay"],
            )
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
        # A copy would be the first step's gradients for ever.
        if any(gradient.untyped_storage().data_ptr() not in buffers for gradient in gradients):
            raise RuntimeError("gradients of the optimizer are no parts of the buffer that is reduced")
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
            # First the weights that are fp32 throughout, then those with a bf16 copy, which Adam writes, too.
            whole = len(group["params"]) - len(half)
            for parameters, model in ((group["params"][:whole], []), (group["params"][whole:], half)):
                for start in range(0, len(parameters), _LONGEST):
                    some = parameters[start : start + _LONGEST]
                    lists.adam.append((group, _adam_lists(owner, some, model[start : start + _LONGEST])))


def _adam_lists(owner: DistributedOptimizer, main: list[Any], model: list[Tensor]) -> list[list[Tensor]]:
    """As Transformer Engine's FusedAdam: gradient, weight, both moments; and main weight where the weight is bf16."""
    state = owner.optimizer.state
    weights = [weight.detach() for weight in main]
    return [
        [weight.grad for weight in main],
        model or weights,
        [state[weight]["exp_avg"] for weight in main],
        [state[weight]["exp_avg_sq"] for weight in main],
        *([weights] if model else []),
    ]


def state_is_hidden(owner: DistributedOptimizer) -> bool:
    """Whether FusedAdam keeps main weights and moments in bf16 itself: its own step is needed to update them."""
    return bool(owner.config.use_precision_aware_optimizer_no_fp8_or_ds_fp8)
