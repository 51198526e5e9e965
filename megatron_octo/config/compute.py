"""How a network is computed: everything that code which builds or sizes one needs, beside the model's shape."""

from dataclasses import dataclass, field
from typing import Literal

from megatron_octo.config.layout import Layout
from megatron_octo.config.model import LoraConfig

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Compute:
    """Choices that hold for a whole run. A recipe yields one (``Recipe.compute``); the fields are its keys.

    Attributes:
        layers: resolved: the library's own layers, or megatron-core's.
        micro_size, seq_length: rows of a micro-batch, and tokens of a row.
        state_dtype: of gradients and of the optimizer's moments.
        seed: of the initial weights.
    """

    seq_length: int
    micro_size: int = 1
    layout: Layout = field(default_factory=Layout)
    layers: Literal["fused", "mcore"] = "mcore"
    precision: Precision = "fp32"
    fp8: Literal["none", "current"] = "none"
    recompute: Literal["none", "mlp", "full"] = "none"
    state_dtype: Precision = "fp32"
    attention: Literal["auto", "flash4", "te", "torch", "unfused"] = "auto"
    mlp: Literal["auto", "quack", "plain"] = "auto"
    cross_entropy: Literal["auto", "reference", "fused", "te"] = "auto"
    tensor_transport: Literal["auto", "peer", "collective"] = "auto"
    deterministic: bool = False
    lora: LoraConfig | None = None
    seed: int = 0

    @property
    def fused(self) -> bool:
        """Whether the library's own layers are used."""
        return self.layers == "fused"

    @property
    def micro_tokens(self) -> int:
        """Tokens of a micro-batch."""
        return self.micro_size * self.seq_length

    @property
    def element_bytes(self) -> int:
        """Bytes of a weight and of an activation."""
        return 2 if self.precision == "bf16" else 4
