"""Base class of the architectures: parameters from the description of the layers, and Hugging Face's names for them.

Plain tables without torch, read by the recipe, the network, initialisation, checkpoints and conversion. No other module
compares architectures by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from megatron_octo.architectures.config_keys import known_keys
from megatron_octo.architectures.description import LayerDescription
from megatron_octo.config.model import ModelConfig

WORD_EMBEDDINGS = "embedding.word_embeddings.weight"
POSITION_EMBEDDINGS = "embedding.position_embeddings.weight"
OUTPUT_LAYER = "output_layer.weight"  # a parameter of its own only if the embeddings are untied
LAYER_PREFIX = "decoder.layers."
# Hugging Face's spellings of the tanh approximation of gelu; they differ in how they are computed, not in what.
TANH_GELU = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast")

Box = tuple[tuple[int, ...], tuple[int, ...]]  # offset, shape
Init = Literal["normal", "residual", "ones", "zeros", "fan_in"]


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter of the whole model, under any parallel layout.

    Attributes:
        name: Megatron-core's, with layers numbered through the whole model.
        shape: with the padded vocabulary.
        axis: the one that tensor parallelism cuts; None: every rank holds the whole parameter.
        init: initialisation (see model/weights.py).
        rows: real rows of the first axis; the others are padding of the vocabulary, and zero.
        parts: equal ranges of the first axis, each of which is cut on its own: gate and up of a gated MLP.
    """

    name: str
    shape: tuple[int, ...]
    axis: int | None
    init: Init
    rows: int
    parts: int = 1

    def local_shape(self, size: int) -> tuple[int, ...]:
        """Return the shape of what each of ``size`` tensor ranks holds."""
        return tuple(extent // (size if axis == self.axis else 1) for axis, extent in enumerate(self.shape))

    def boxes(self, rank: int, size: int) -> list[Box]:
        """Return the boxes that tensor rank ``rank`` of ``size`` holds, one under the other, as offset and shape."""
        parts = self.parts if size > 1 and self.axis == 0 else 1  # they lie side by side on a single rank
        rows, *trailing = self.local_shape(size)
        offset = [0] * len(self.shape)
        found = []
        for part in range(parts):
            if self.axis is not None:
                extent = self.shape[self.axis] // (size * parts)
                offset[self.axis] = (part * size + rank) * extent
            found.append((tuple(offset), (rows // parts, *trailing)))
        return found


@dataclass(frozen=True)
class Rows:
    """Rows ``start`` to ``stop`` of a parameter."""

    parameter: str
    start: int
    stop: int


@dataclass(frozen=True)
class HfTensor:
    """A tensor of a Hugging Face model: ranges of rows of parameters, in succession.

    No other transformation is needed: both sides store linear weights as [out, in].
    """

    name: str
    shape: tuple[int, ...]
    rows: tuple[Rows, ...]


class Architecture(ABC):
    """A family of models.

    Attributes:
        name: value of ``model.architecture``, and Hugging Face's ``model_type``.
        hf_class: class of transformers that computes its conversions.
        models: published models, for messages.
        description: kinds of its layers' parts.
        activations: allowed values of ``model.activation``.
        top, layer: Hugging Face's names of parameters outside of layers, and of modules of a layer with its number as
            ``{}``; several where one is several there (see :meth:`split`).
        fields: key of the model section -> Hugging Face's key and default; None: required.
        fixed: Hugging Face's key -> supported values; the first is the default, and is written.
        equal: Hugging Face's key -> one of ``fields`` whose value it must have, and its default (None: only if given).
        aliases: other spellings of Hugging Face's keys -> the key.
        extra: Hugging Face's keys that :meth:`read_extra` reads.
        harmless: keys that do not change what is computed, beside those of every model.
        ignored: pattern of tensors that are not parameters and are left aside.
    """

    name: ClassVar[str]
    hf_class: ClassVar[str]
    models: ClassVar[str]
    description: ClassVar[LayerDescription]
    activations: ClassVar[tuple[str, ...]]
    top: ClassVar[Mapping[str, str]]
    layer: ClassVar[Mapping[str, str | tuple[str, ...]]]
    fields: ClassVar[Mapping[str, tuple[str, Any]]]
    fixed: ClassVar[Mapping[str, tuple[Any, ...]]]
    equal: ClassVar[Mapping[str, tuple[str, Any]]] = {}
    aliases: ClassVar[Mapping[str, str]] = {}
    extra: ClassVar[frozenset[str]] = frozenset()
    harmless: ClassVar[frozenset[str]] = frozenset()
    ignored: ClassVar[str] = r"(?!)"

    def check(self, model: ModelConfig) -> None:
        """Check that this architecture allows a shape; subclasses add rules of their own.

        Raises:
            ValueError: it does not; the message names the key and its allowed values.
        """
        if model.activation not in self.activations:
            raise ValueError(
                f"{self.name} has model.activation {' or '.join(self.activations)}, not {model.activation}"
            )
        if self.description.positions == "learned" and model.rotary_base is not None:
            raise ValueError(f"{self.name} has learned positions: model.rotary_base must be null")
        if self.description.positions == "rotary":
            if model.rotary_base is None:
                raise ValueError(f"{self.name} has rotary positions: model.rotary_base is missing (10000.0 is common)")
            if model.head_dim % 2:
                raise ValueError(f"rotary positions turn pairs of numbers: head dimension {model.head_dim} is odd")

    @abstractmethod
    def write_extra(self, model: ModelConfig) -> dict[str, Any]:
        """Return the keys of ``config.json`` that are not plain copies of keys of the model section."""

    @abstractmethod
    def read_extra(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keys of the model section that are not plain copies.

        Raises:
            KeyError: a key is missing.
            ValueError: a variant that is not supported.
        """

    def parameters(self, model: ModelConfig) -> list[ParameterSpec]:
        """Return all parameters in the order of the network, as the description of its layers has them."""
        hidden, width, kinds = model.hidden_size, model.attention_size, self.description
        inner = kinds.fc1_parts * model.ffn_hidden_size

        def norm(name: str) -> Iterator[ParameterSpec]:
            yield ParameterSpec(f"{name}.weight", (hidden,), None, "ones", hidden)
            if kinds.norm_bias:
                yield ParameterSpec(f"{name}.bias", (hidden,), None, "zeros", hidden)

        def linear(
            name: str, shape: tuple[int, int], axis: int, bias: bool = kinds.linear_bias, parts: int = 1
        ) -> Iterator[ParameterSpec]:
            init: Init = "normal" if axis == 0 else "residual"
            yield ParameterSpec(f"{name}.weight", shape, axis, init, shape[0], parts)
            if bias:
                cut = 0 if axis == 0 else None
                yield ParameterSpec(f"{name}.bias", shape[:1], cut, "zeros", shape[0], parts)

        def layer(prefix: str) -> Iterator[ParameterSpec]:
            yield from norm(f"{prefix}input_layernorm")
            # Rows of the fused projection: a group after the other, and in it [its queries | its key | its value].
            name = f"{prefix}self_attention.linear_qkv"
            yield from linear(name, (model.qkv_size, hidden), 0, bias=kinds.qkv_bias)
            yield from linear(f"{prefix}self_attention.linear_proj", (hidden, width), 1)
            yield from norm(f"{prefix}pre_mlp_layernorm")
            yield from linear(f"{prefix}mlp.linear_fc1", (inner, hidden), 0, parts=kinds.fc1_parts)
            yield from linear(f"{prefix}mlp.linear_fc2", (hidden, model.ffn_hidden_size), 1)

        vocabulary = (model.padded_vocab_size, hidden)
        specs = [ParameterSpec(WORD_EMBEDDINGS, vocabulary, 0, "normal", model.vocab_size)]
        if kinds.positions == "learned":
            length = model.max_position_embeddings
            specs.append(ParameterSpec(POSITION_EMBEDDINGS, (length, hidden), None, "normal", length))
        for number in range(model.num_layers):
            specs += layer(f"{LAYER_PREFIX}{number}.")
        specs += norm("decoder.final_layernorm")
        if not model.tied_embeddings:
            specs.append(ParameterSpec(OUTPUT_LAYER, vocabulary, 0, "normal", model.vocab_size))
        return specs

    def hf_names(self, parameter: str) -> tuple[str, ...]:
        """Return Hugging Face's names of the tensors that hold one of our parameters."""
        if parameter in self.top:
            return (self.top[parameter],)
        number, _, rest = parameter.removeprefix(LAYER_PREFIX).partition(".")
        module, _, kind = rest.rpartition(".")
        names = self.layer[module]
        return tuple(f"{n.format(number)}.{kind}" for n in ((names,) if isinstance(names, str) else names))

    def split(self, spec: ParameterSpec, model: ModelConfig) -> list[HfTensor]:
        """Return the tensors that hold one of our parameters on Hugging Face's side, without its padding.

        Three are queries, keys and values, each the same rows of every group; others share the rows evenly.
        """
        names, repeats = self.hf_names(spec.name), 1
        sizes = [spec.rows // len(names)] * len(names)
        if len(names) == 3:
            repeats = model.num_query_groups
            sizes = [model.attention_size // repeats, model.head_dim, model.head_dim]
        period, first, tensors = sum(sizes), 0, []
        for name, size in zip(names, sizes, strict=True):
            starts = [number * period + first for number in range(repeats)]
            rows = tuple(Rows(spec.name, start, start + size) for start in starts)
            tensors.append(HfTensor(name, (repeats * size, *spec.shape[1:]), rows))
            first += size
        return tensors

    def linear_modules(self, model: ModelConfig) -> dict[str, tuple[str, ...]]:
        """Return the linear modules of a layer (``mlp.linear_fc1``) with Hugging Face's names of the first layer's."""
        found = {}
        for spec in self.parameters(model):
            if spec.name.startswith(f"{LAYER_PREFIX}0.") and spec.name.endswith(".weight") and len(spec.shape) == 2:
                ours = spec.name.removeprefix(f"{LAYER_PREFIX}0.").removesuffix(".weight")
                found[ours] = tuple(t.name.removesuffix(".weight") for t in self.split(spec, model))
        return found

    def select_modules(self, model: ModelConfig, names: Iterable[str]) -> tuple[str, ...]:
        """Return the linear modules of a layer whose names, here or at Hugging Face, end in one of ``names``.

        Raises:
            ValueError: there is no such module, or only a part of one is named.
        """
        linear = self.linear_modules(model)
        named: set[str] = set()  # names of both kinds
        for name in names:
            every = (each for ours, theirs in linear.items() for each in (ours, *theirs))
            hits = {each for each in every if f".{each}".endswith(f".{name}")}
            if not hits:
                words = ", ".join(sorted(ours.rpartition(".")[2] for ours in linear))
                raise ValueError(f"lora.target_modules: no {name!r} in a {self.name} layer, which has {words}")
            named |= hits
        for ours, theirs in linear.items():
            # Queries, keys and values are one linear layer here.
            if ours not in named and named & set(theirs) and not named.issuperset(theirs):
                words = ", ".join(each.rpartition(".")[2] for each in theirs)
                raise ValueError(f"lora.target_modules: {words} have one adapter together, name all of them")
        return tuple(ours for ours, theirs in linear.items() if named & {ours, *theirs})

    def hf_tensors(self, model: ModelConfig) -> dict[str, HfTensor]:
        """Return all tensors of the Hugging Face model by name, in the order of the network."""
        tensors = [tensor for spec in self.parameters(model) for tensor in self.split(spec, model)]
        return {tensor.name: tensor for tensor in tensors}

    def hf_aliases(self, model: ModelConfig) -> dict[str, str]:
        """Return names under which some writers repeat a tensor, with that tensor's name."""
        return {self.top[OUTPUT_LAYER]: self.top[WORD_EMBEDDINGS]} if model.tied_embeddings else {}

    def hf_config(self, model: ModelConfig, eod_id: int | None, dtype: str) -> dict[str, Any]:
        """Return ``config.json``; ``eod_id``, the end of a document, is the first and the last token of a text.

        Without it both are null: transformers' default, 50256, is GPT-2's.
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
        """Return the model section that a ``config.json`` describes.

        Raises:
            KeyError: a key is missing.
            ValueError: a variant that is not supported.
        """
        tree = known_keys(self, tree)
        section: dict[str, Any] = {"architecture": self.name}
        for ours, (theirs, default) in self.fields.items():
            section[ours] = tree[theirs] if default is None else tree.get(theirs, default)
        section["tied_embeddings"] = tree.get("tie_word_embeddings", True)
        return {**section, **self.read_extra(tree)}
