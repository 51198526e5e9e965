"""What an architecture says of itself: its parameters, and the same network in Hugging Face's words.

Plain tables without torch. The recipe, the network, initialisation, checkpoints and conversion read them; nothing
else in the library knows one architecture from another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from megatron_octo.config.model import ModelConfig

WORD_EMBEDDINGS = "embedding.word_embeddings.weight"
POSITION_EMBEDDINGS = "embedding.position_embeddings.weight"
OUTPUT_LAYER = "output_layer.weight"  # a parameter of its own only if the embeddings are untied
LAYER_PREFIX = "decoder.layers."
# Hugging Face's spellings of the tanh approximation of gelu; they differ in how they are computed, not in what.
TANH_GELU = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast")

Init = Literal["normal", "residual", "ones", "zeros", "fan_in"]


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter of the whole model, under any parallel layout.

    Attributes:
        name: Megatron-core's, with layers numbered through the whole model.
        shape: with the vocabulary padded.
        axis: which one tensor parallelism cuts; None: every rank holds all of it.
        init: how it starts (see model.weights).
        rows: real ones of the first axis; the rest is padding of the vocabulary, and zero.
    """

    name: str
    shape: tuple[int, ...]
    axis: int | None
    init: Init
    rows: int

    def box(self, rank: int, size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Offset and shape of the part that tensor rank ``rank`` of ``size`` holds."""
        if self.axis is None:
            return (0,) * len(self.shape), self.shape
        part = self.shape[self.axis] // size
        offset, shape = [0] * len(self.shape), list(self.shape)
        offset[self.axis], shape[self.axis] = rank * part, part
        return tuple(offset), tuple(shape)


@dataclass(frozen=True)
class Rows:
    """``start`` to ``stop`` of the first axis of one of our parameters."""

    parameter: str
    start: int
    stop: int


@dataclass(frozen=True)
class HfTensor:
    """One tensor of a Hugging Face model: rows of our parameters, one range after the other.

    No other transformation is needed: both sides keep linear weights as [out, in].
    """

    name: str
    shape: tuple[int, ...]
    rows: tuple[Rows, ...]


class Architecture(ABC):
    """One family of models. A file of this package with an ``ARCHITECTURE`` adds one.

    Attributes:
        name: in recipes (``model.architecture``), and Hugging Face's ``model_type``.
        hf_class: the class of transformers that runs its conversions.
        models: published ones, for messages.
        learned_positions: a table of positions is learned; else positions are rotary.
        top, layer: Hugging Face's names of our parameters; those of a layer as modules, with their number as ``{}``.
        fields: our key of the model section -> Hugging Face's key and its default there; None: has to be given.
        fixed: Hugging Face's key -> the value written and all that are understood; the first is the default.
    """

    name: ClassVar[str]
    hf_class: ClassVar[str]
    models: ClassVar[str]
    learned_positions: ClassVar[bool]
    top: ClassVar[Mapping[str, str]]
    layer: ClassVar[Mapping[str, str]]
    fields: ClassVar[Mapping[str, tuple[str, Any]]]
    fixed: ClassVar[Mapping[str, tuple[Any, ...]]]

    @abstractmethod
    def check(self, model: ModelConfig) -> None:
        """Whether this architecture has such a shape.

        Raises:
            ValueError: it has not; says which key is wrong and what it may be.
        """

    @abstractmethod
    def write_extra(self, model: ModelConfig) -> dict[str, Any]:
        """Keys of ``config.json`` that are no plain copies of ours."""

    @abstractmethod
    def read_extra(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """Our keys that are no plain copies.

        Raises:
            KeyError: a key is missing.
            ValueError: a variant that we do not compute.
        """

    def parameters(self, model: ModelConfig) -> list[ParameterSpec]:
        """All parameters in the order of the network: pre-norm layers with biases, fused query, key and value."""
        hidden, ffn = model.hidden_size, model.ffn_hidden_size
        # Rows of the fused projection: a group after the other, and in it [its queries | its key | its value].
        layer: list[tuple[str, tuple[int, ...], int | None, Init]] = [
            ("input_layernorm.weight", (hidden,), None, "ones"),
            ("input_layernorm.bias", (hidden,), None, "zeros"),
            ("self_attention.linear_qkv.weight", (model.qkv_size, hidden), 0, "normal"),
            ("self_attention.linear_qkv.bias", (model.qkv_size,), 0, "zeros"),
            ("self_attention.linear_proj.weight", (hidden, hidden), 1, "residual"),
            ("self_attention.linear_proj.bias", (hidden,), None, "zeros"),
            ("pre_mlp_layernorm.weight", (hidden,), None, "ones"),
            ("pre_mlp_layernorm.bias", (hidden,), None, "zeros"),
            ("mlp.linear_fc1.weight", (ffn, hidden), 0, "normal"),
            ("mlp.linear_fc1.bias", (ffn,), 0, "zeros"),
            ("mlp.linear_fc2.weight", (hidden, ffn), 1, "residual"),
            ("mlp.linear_fc2.bias", (hidden,), None, "zeros"),
        ]
        vocabulary = (model.padded_vocab_size, hidden)
        specs = [ParameterSpec(WORD_EMBEDDINGS, vocabulary, 0, "normal", model.vocab_size)]
        if self.learned_positions:
            length = model.max_position_embeddings
            specs.append(ParameterSpec(POSITION_EMBEDDINGS, (length, hidden), None, "normal", length))
        for number in range(model.num_layers):
            specs += [
                ParameterSpec(f"{LAYER_PREFIX}{number}.{name}", shape, axis, init, shape[0])
                for name, shape, axis, init in layer
            ]
        specs += [
            ParameterSpec("decoder.final_layernorm.weight", (hidden,), None, "ones", hidden),
            ParameterSpec("decoder.final_layernorm.bias", (hidden,), None, "zeros", hidden),
        ]
        if not model.tied_embeddings:
            specs.append(ParameterSpec(OUTPUT_LAYER, vocabulary, 0, "normal", model.vocab_size))
        return specs

    def hf_name(self, parameter: str) -> str:
        """Hugging Face's name of the tensor, or the first of the tensors, that holds one of our parameters."""
        if parameter in self.top:
            return self.top[parameter]
        number, _, rest = parameter.removeprefix(LAYER_PREFIX).partition(".")
        module, _, kind = rest.rpartition(".")
        return f"{self.layer[module].format(number)}.{kind}"

    def split(self, spec: ParameterSpec, model: ModelConfig) -> list[HfTensor]:
        """The tensors that hold one of our parameters on Hugging Face's side; its padding is not among them."""
        shape = (spec.rows, *spec.shape[1:])
        return [HfTensor(self.hf_name(spec.name), shape, (Rows(spec.name, 0, spec.rows),))]

    def linear_modules(self, model: ModelConfig) -> dict[str, tuple[str, ...]]:
        """The linear modules of a layer: our name (``mlp.linear_fc1``) and Hugging Face's, of the first layer."""
        found = {}
        for spec in self.parameters(model):
            if (
                spec.name.startswith(f"{LAYER_PREFIX}0.")
                and spec.name.endswith(".weight")
                and len(spec.shape) == 2
            ):
                ours = spec.name.removeprefix(f"{LAYER_PREFIX}0.").removesuffix(".weight")
                found[ours] = tuple(t.name.removesuffix(".weight") for t in self.split(spec, model))
        return found

    def select_modules(self, model: ModelConfig, names: Iterable[str]) -> tuple[str, ...]:
        """Linear modules of a layer, by our names, in their order.

        Args:
            names: ends of our names or of Hugging Face's: ``c_proj`` may be several.

        Raises:
            ValueError: there is no such module, or only a part of one of ours is named.
        """
        linear = self.linear_modules(model)
        named: set[str] = set()  # in both worlds' words
        for name in names:
            every = (each for ours, theirs in linear.items() for each in (ours, *theirs))
            hits = {each for each in every if f".{each}".endswith(f".{name}")}
            if not hits:
                words = ", ".join(sorted(ours.rpartition(".")[2] for ours in linear))
                raise ValueError(
                    f"lora.target_modules: no {name!r} in a {self.name} layer, which has {words}"
                )
            named |= hits
        for ours, theirs in linear.items():
            # Queries, keys and values are one linear layer here, whatever they are there.
            if ours not in named and named & set(theirs) and not named.issuperset(theirs):
                words = ", ".join(each.rpartition(".")[2] for each in theirs)
                raise ValueError(f"lora.target_modules: {words} have one adapter together, name all of them")
        return tuple(ours for ours, theirs in linear.items() if named & {ours, *theirs})

    def hf_tensors(self, model: ModelConfig) -> dict[str, HfTensor]:
        """All tensors of a conversion by name, in the order of the network."""
        tensors = [tensor for spec in self.parameters(model) for tensor in self.split(spec, model)]
        return {tensor.name: tensor for tensor in tensors}

    def hf_aliases(self, model: ModelConfig) -> dict[str, str]:
        """Names under which some writers repeat a tensor -> that tensor's name."""
        return {self.top[OUTPUT_LAYER]: self.top[WORD_EMBEDDINGS]} if model.tied_embeddings else {}

    def hf_config(self, model: ModelConfig, eod_id: int | None, dtype: str) -> dict[str, Any]:
        """``config.json``: a document's end is both the first and the last token of a text (transformers' own
        defaults, 50256, are GPT-2's).
        """
        return {
            "architectures": [self.hf_class],
            "model_type": self.name,
            **{theirs: getattr(model, ours) for ours, (theirs, _) in self.fields.items()},
            **{key: values[0] for key, values in self.fixed.items()},
            **self.write_extra(model),
            "tie_word_embeddings": model.tied_embeddings,
            "use_cache": True,
            "bos_token_id": eod_id,
            "eos_token_id": eod_id,
            "dtype": dtype,
        }

    def model_section(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """The recipe's model section that a ``config.json`` describes.

        Raises:
            KeyError: a key is missing.
            ValueError: a variant that we do not compute.
        """
        for key, values in self.fixed.items():
            if tree.get(key, values[0]) not in values:
                raise ValueError(f"{key} {tree[key]!r} is not supported, only {list(values)}")
        section: dict[str, Any] = {"architecture": self.name}
        for ours, (theirs, default) in self.fields.items():
            section[ours] = tree[theirs] if default is None else tree.get(theirs, default)
        section["tied_embeddings"] = tree.get("tie_word_embeddings", True)
        return {**section, **self.read_extra(tree)}
