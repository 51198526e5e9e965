"""Recipe sections for the model's shape and for adapters."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from megatron_octo.common.terminal import is_plain, printable

PositiveInt = Annotated[int, Field(gt=0)]
# Bounds far above any model: tables of one entry per layer or head stay small, whatever a file claims.
Extent = Annotated[int, Field(gt=0, le=1 << 40)]
Few = Annotated[int, Field(gt=0, le=10_000)]
Count = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Part of a recipe: frozen and strict. The docstring under each field is its description for users."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)
    multiline: ClassVar[frozenset[str]] = frozenset()  # fields whose texts may have several lines

    @field_validator("*")
    @classmethod
    def _plain_text(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse control characters: texts become paths, names and lines of scripts."""
        keep = "\n\t" if info.field_name in cls.multiline else ""
        for text in _texts(value):
            if not is_plain(text, keep):
                raise ValueError(f"{info.field_name}: control characters in {printable(text)!r}")
        return value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (*_texts(key), *_texts(item))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


class ModelConfig(Section):
    """Shape of the model. docs/architectures.md lists what each architecture allows."""

    architecture: str = "gpt_bigcode"
    """`gpt_bigcode` (StarCoder, SantaCoder) or `starcoder2`."""
    num_layers: Few
    """Transformer layers."""
    hidden_size: Extent
    """Width of a token's hidden state; a multiple of `model.num_attention_heads`."""
    num_attention_heads: Few
    """Query heads."""
    num_query_groups: Few = 1
    """Key/value heads, each shared by equally many successive query heads. 1: multi-query attention."""
    ffn_hidden_size: Extent
    """Width inside the feed-forward block; 4 x `model.hidden_size` in the published models."""
    max_position_embeddings: Extent
    """Longest sequence that the model can read. Learned positions cannot be extended later."""
    vocab_size: Extent
    """Tokens of the tokenizer."""
    vocab_multiple: Extent = 128
    """Embedding rows are padded to a multiple of this under every layout. Padding has no loss and is never exported."""
    rotary_base: PositiveFloat | None = None
    """Base of the wavelengths of rotary positions; null: positions are learned."""
    sliding_window: Extent | None = None
    """Tokens that a position attends to, itself included; null: all tokens before it."""
    tied_embeddings: bool = True
    """Use the word embeddings as the output layer; false: the output layer has its own weights."""
    activation: Literal["gelu_tanh", "gelu", "silu"] = "gelu_tanh"
    """`gelu_tanh`: tanh approximation (SantaCoder, StarCoder2; `gelu_pytorch_tanh` in Hugging Face). `gelu`: exact
    (StarCoder). `silu`: of a gated MLP. Each architecture allows some of them."""
    layernorm_epsilon: PositiveFloat = 1e-5
    """Added to the variance in LayerNorm."""
    hidden_dropout: Fraction = 0.0
    """Dropout after the embedding, attention and feed-forward blocks."""
    attention_dropout: Fraction = 0.0
    """Dropout on the attention weights."""
    init_std: PositiveFloat = 0.02
    """Standard deviation of new weights; output projections use it divided by sqrt(2 x layers)."""

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def attention_size(self) -> int:
        """Width of all queries together."""
        return self.num_attention_heads * self.head_dim

    @property
    def qkv_size(self) -> int:
        """Rows of the fused query, key and value projection."""
        return self.attention_size + 2 * self.num_query_groups * self.head_dim

    @property
    def padded_vocab_size(self) -> int:
        """Embedding rows, padding included."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} does not divide hidden_size {self.hidden_size}"
            )
        if self.num_attention_heads % self.num_query_groups:
            raise ValueError(
                f"model.num_query_groups {self.num_query_groups} does not divide "
                f"model.num_attention_heads {self.num_attention_heads}"
            )
        return self


class LoraConfig(Section):
    """LoRA: train low-rank adapters beside the frozen weights of `checkpoint.init_from`; see docs/lora.md."""

    rank: PositiveInt = 16
    """Inner dimension of an adapter."""
    alpha: PositiveFloat = 32.0
    """Adapters are scaled by alpha / rank."""
    dropout: Fraction = 0.05
    """Dropout on an adapter's input."""
    target_modules: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = (
        "linear_qkv",
        "linear_proj",
        "linear_fc2",
    )
    """Linear layers that get an adapter, by the end of their name: Megatron-core's (`linear_fc1` is the fourth) or
    Hugging Face's (`c_attn`, `c_proj`, `attn.c_proj`). `c_proj` matches in both attention and feed-forward blocks."""
