"""AdamW: all that the training code states about this optimizer in particular.

A second optimizer is a class like :class:`AdamW`, with its state listed in :mod:`megatron_octo.config.optimizer_state`:
norm, clipping, sharding, checkpoints and memory estimates follow from that list.
"""

from typing import Any

import torch
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor

from megatron_octo.common.errors import OctoError
from megatron_octo.config.optimizer_state import state_kinds
from megatron_octo.config.sections import OptimizerConfig
from megatron_octo.model.platform.mcore import using_transformer_engine

BLOCK = 2048 * 32  # elements per block of Transformer Engine's kernels, their own choice
_LONGEST = 1024  # tensors in one call of its Adam, as in its FusedAdam


class AdamW:
    """AdamW as megatron-core builds it: Transformer Engine's FusedAdam, else torch's."""

    def __init__(self, options: OptimizerConfig):
        self._options = options
        self.kinds = tuple(kind.name for kind in state_kinds(options.state_dtype))

    def core_options(self) -> dict[str, Any]:
        """Return the options of megatron-core's ``OptimizerConfig`` that name this optimizer and its state's dtype.

        Raises:
            OctoError: bf16 state without Transformer Engine.
        """
        options = self._options
        found: dict[str, Any] = {
            "optimizer": "adam",
            "adam_beta1": options.beta1,
            "adam_beta2": options.beta2,
            "adam_eps": options.eps,
        }
        if options.state_dtype == "fp32":
            return found
        if not using_transformer_engine():
            raise OctoError(
                "bf16 optimizer state needs Transformer Engine on a GPU",
                where="optimizer.state_dtype",
                hint="use fp32 or pip install -e .[gpu]",
            )
        return {
            **found,
            "use_precision_aware_optimizer": True,
            "store_param_remainders": False,
            "main_grads_dtype": torch.bfloat16,
            **{f"{kind}_dtype": torch.bfloat16 for kind in self.kinds},
        }

    def tune(self, owner: DistributedOptimizer) -> None:
        """Choose torch's fused form on a GPU, which megatron-core does not do."""
        if isinstance(owner.optimizer, torch.optim.AdamW) and torch.cuda.is_available():
            for group in owner.optimizer.param_groups:
                group.update(fused=True, foreach=False)

    def write_state(self, owner: DistributedOptimizer, key: Any, tensors: dict[str, Tensor], steps: int) -> None:
        """Replace the state of one parameter, which may have none yet.

        Args:
            owner: the optimizer that updates it.
            key: the parameter in that optimizer.
            tensors: fp32 on its device, by kind; ``main`` weights besides.
            steps: optimizer steps taken so far.
        """
        optimizer = owner.optimizer
        if not hasattr(optimizer, "set_scaled_state"):  # torch's
            state = optimizer.state[key]
            state["step"] = torch.tensor(float(steps), device=key.device if key.is_cuda else None)
            state.update({name: tensors[name].clone() for name in self.kinds})
            return
        for name in self.kinds:
            optimizer.set_scaled_state(key, name, tensors[name])
        if state_is_hidden(owner):
            optimizer.set_scaled_state(key, "master_param", tensors["main"])

    def set_steps(self, owner: DistributedOptimizer, steps: int) -> None:
        """Set the step count of Transformer Engine's and apex' groups; torch's AdamW keeps one per parameter."""
        if not isinstance(owner.optimizer, torch.optim.Adam | torch.optim.AdamW):
            for group in owner.optimizer.param_groups:
                group["step"] = steps

    def kernel_calls(
        self, owner: DistributedOptimizer, main: list[Any], model: list[Tensor]
    ) -> list[list[list[Tensor]]]:
        """Return the tensor lists of the calls of Transformer Engine's kernel that update some weights of one group.

        Each call takes gradients, weights, both moments and, where weights are bf16, the fp32 weights, as in FusedAdam.

        Args:
            owner: the optimizer that has the state.
            main: fp32 weights.
            model: the bf16 weights that they are copied to; empty if the model is fp32.
        """
        state, calls = owner.optimizer.state, []
        for start in range(0, len(main), _LONGEST):
            some = main[start : start + _LONGEST]
            weights = [weight.detach() for weight in some]
            lists = [[weight.grad for weight in some], model[start : start + _LONGEST] or weights]
            lists += [[state[weight][kind] for weight in some] for kind in self.kinds]
            calls.append([*lists, *([weights] if model else [])])
        return calls

    def call(self, kernels: Any, flag: Tensor, group: dict[str, Any], lists: list[list[Tensor]]) -> None:
        """Update the weights of one call; the group's step count was increased before."""
        kernels.multi_tensor_adam(
            BLOCK,
            flag,
            lists,
            group["lr"],
            *group["betas"],
            group["eps"],
            group["step"],
            1,  # AdamW
            1,  # with bias correction
            group["weight_decay"],
        )


def state_is_hidden(owner: DistributedOptimizer) -> bool:
    """Whether FusedAdam itself keeps main weights and moments in bf16, so that only its own step can update them."""
    return bool(owner.config.use_precision_aware_optimizer_no_fp8_or_ds_fp8)
