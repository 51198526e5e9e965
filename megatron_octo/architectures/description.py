"""The parts of a transformer layer, stated once per architecture for everything that builds or sizes one."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LayerDescription:
    """The kinds of a layer's parts: norm, attention, norm, MLP, each pair with a residual around it.

    The defaults are GPT-2's. Head counts, widths, the activation and a sliding window are values of the model's shape.

    Attributes:
        norm: ``rms_norm`` has a weight and no bias.
        mlp: ``gated`` multiplies the activation of its gate's rows by its other rows before the second matrix. Both
            are one matrix ``linear_fc1`` of 2 * ffn_hidden_size rows, the gate's first.
        positions: ``learned`` is a table that is added to the word embeddings; ``rotary`` turns queries and keys.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        linear_bias: whether the other linear layers have one.
    """

    norm: Literal["layer_norm", "rms_norm"] = "layer_norm"
    mlp: Literal["plain", "gated"] = "plain"
    positions: Literal["learned", "rotary"] = "learned"
    qkv_bias: bool = True
    linear_bias: bool = True

    @property
    def norm_bias(self) -> bool:
        """Whether norms have a bias."""
        return self.norm == "layer_norm"

    @property
    def fc1_parts(self) -> int:
        """Matrices of ffn_hidden_size rows in ``linear_fc1``."""
        return 2 if self.mlp == "gated" else 1
