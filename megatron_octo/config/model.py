"""What is trained: sections of the recipe for the model's shape and for adapters (see :mod:`megatron_octo.config`)."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveInt = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of the recipe: unknown keys and wrong types are errors, and it never changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ModelConfig(Section):
    """Shape of a model, one that its architecture (:mod:`megatron_octo.architectures`) has."""

    architecture: str = "gpt_bigcode"
    num_layers: PositiveInt
    hidden_size: PositiveInt
    num_attention_heads: PositiveInt
    num_query_groups: PositiveInt = 1  # key/value heads, each for as many queries
    ffn_hidden_size: PositiveInt
    max_position_embeddings: PositiveInt
    vocab_size: PositiveInt  # real tokens; the weights are padded to a multiple of vocab_multiple
    vocab_multiple: PositiveInt = 128  # does not depend on the parallel layout, so neither does the model
    rotary_base: PositiveFloat | None = None  # of rotary positions; None: learned ones
    sliding_window: PositiveInt | None = (
        None  # tokens that a position sees, itself included; None: all before it
    )
    tied_embeddings: bool = True  # the output layer is the word embeddings
    # gelu: the exact one; gelu_tanh: its approximation. The architecture allows some of them.
    activation: Literal["gelu_tanh", "gelu", "silu"] = "gelu_tanh"
    layernorm_epsilon: PositiveFloat = 1e-5
    hidden_dropout: Fraction = 0.0
    attention_dropout: Fraction = 0.0
    init_std: PositiveFloat = 0.02

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def attention_size(self) -> int:
        """Width of all queries together."""
        return self.num_attention_heads * self.head_dim

    @property
    def qkv_size(self) -> int:
        """Rows of the fused projection to queries, keys and values."""
        return self.attention_size + 2 * self.num_query_groups * self.head_dim

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding tables."""
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
    """Adapters of low rank beside frozen weights (LoRA); the default is what OctoCoder had."""

    rank: PositiveInt = 16
    alpha: PositiveFloat = 32.0  # adapters are scaled by alpha / rank
    dropout: Fraction = 0.05  # of an adapter's input
    # Ends of our names or of Hugging Face's: c_proj is attention's output and the feed-forward part's.
    target_modules: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = (
        "linear_qkv",
        "linear_proj",
        "linear_fc2",
    )
