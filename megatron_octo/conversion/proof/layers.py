"""Computes a network layer by layer: on Megatron-core with our weights, in transformers with theirs.

Both sides run the real training or serving code in fp32 on the CPU: a network of a single layer that stands for each
layer in turn. A matrix is in memory only while the module that owns it runs. Embeddings and logits are a lookup and a
matrix product, done here in blocks of the vocabulary.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from megatron_octo.architectures import describe_layer, find_architecture
from megatron_octo.architectures.parameters import (
    LAYER_PREFIX,
    OUTPUT_LAYER,
    POSITION_EMBEDDINGS,
    WORD_EMBEDDINGS,
)
from megatron_octo.checkpoint.source import BLOCK, Source
from megatron_octo.config.compute import Compute
from megatron_octo.config.model import ModelConfig
from megatron_octo.conversion.readers.hf_source import weight_map

_NORM = "decoder.final_layernorm."
_NOTHING = torch.empty(0)
_LONGEST = 512  # input tokens


@contextlib.contextmanager
def _output_of(module: torch.nn.Module) -> Iterator[list[Tensor]]:
    """Collect a module's outputs while the block runs."""
    found: list[Tensor] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    hook = module.register_forward_hook(keep)
    try:
        yield found
    finally:
        hook.remove()


def _stream(layer: torch.nn.Module, fill: Callable[[torch.nn.Parameter, str], None]) -> None:
    """Call ``fill(parameter, name)`` before a module uses a matrix, and free the matrix afterwards."""

    def load(module: torch.nn.Module, name: str) -> None:
        for own, parameter in module.named_parameters(recurse=False):
            if id(parameter) in matrices:
                fill(parameter, f"{name}.{own}")

    def release(module: torch.nn.Module) -> None:
        for parameter in module.parameters(recurse=False):
            if id(parameter) in matrices:
                parameter.data = _NOTHING

    matrices = {id(parameter) for parameter in layer.parameters() if parameter.dim() > 1}
    for name, module in layer.named_modules():
        module.register_forward_pre_hook(lambda module, inputs, name=name: load(module, name))
        module.register_forward_hook(lambda module, inputs, output: release(module))
        release(module)


def _row_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, BLOCK // (4 * torch.Size(shape[1:]).numel()))
    for row in range(0, shape[0], step):
        yield slice(row, min(shape[0], row + step))


def _normed(hidden_TH: Tensor, model: ModelConfig, read: Callable[[str], Tensor]) -> Tensor:
    """Apply the last norm, whose parameters ``read`` gives by our names."""
    weight, width, epsilon = read(f"{_NORM}weight"), hidden_TH.shape[1:], model.layernorm_epsilon
    if not describe_layer(model).norm_bias:
        return F.rms_norm(hidden_TH, width, weight, epsilon)
    return F.layer_norm(hidden_TH, width, weight, read(f"{_NORM}bias"), epsilon)


class Network(Protocol):
    """A network whose weights are read when they are needed; in fp32, T tokens, H hidden, V rows of the vocabulary."""

    def embed(self, tokens_T: Tensor) -> Tensor:
        """Return the embeddings [T, H]."""

    def layer(self, number: int, hidden_TH: Tensor) -> Tensor:
        """Return the output [T, H] of a layer."""

    def norm(self, hidden_TH: Tensor) -> Tensor:
        """Return the output [T, H] of the last norm."""

    def output_rows(self, start: int, stop: int) -> Tensor:
        """Return rows [V, H] of the output layer."""


class _MegatronNetwork:
    def __init__(self, source: Source, grid: Any):
        from megatron_octo.model.attention.backend import choose_backend
        from megatron_octo.model.mcore_gpt import build_model
        from megatron_octo.model.weights import held_parameters

        self.source, self.model, self._number = source, source.manifest.model, 0
        # Its embeddings are not used: they need not be large.
        small = {"num_layers": 1, "vocab_size": 1, "tied_embeddings": True}
        no_dropout = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
        model = self.model.model_copy(update={**small, **no_dropout})
        compute = Compute(seq_length=model.max_position_embeddings)
        self._network = build_model(model, compute, grid, choose_backend(model, compute, grid.device)).eval()
        held = held_parameters(self._network, model, compute, grid)
        self._held = {id(each.parameter): each for each in held if each.spec.name.startswith(LAYER_PREFIX)}
        _stream(self._network.decoder.layers[0], self._fill)

    def _rows(self, name: str, start: int, stop: int) -> Tensor:
        shape = (stop - start, *self.source.shape(name)[1:])
        return self.source.read(name, offset=(start, *(0 for _ in shape[1:])), shape=shape).float()

    def embed(self, tokens_T: Tensor) -> Tensor:
        hidden = torch.cat([self._rows(WORD_EMBEDDINGS, token, token + 1) for token in tokens_T.tolist()])
        if describe_layer(self.model).positions == "learned":
            hidden = hidden + self._rows(POSITION_EMBEDDINGS, 0, tokens_T.numel())
        return hidden

    def layer(self, number: int, hidden_TH: Tensor) -> Tensor:
        from megatron_octo.model.attention.packed_attention import packed_params

        self._number = number
        for held in self._held.values():
            if len(held.shape) == 1:  # a bias may be added after its module is done
                self._fill(held.parameter)
        count = hidden_TH.size(0)
        packed = packed_params(torch.tensor([0, count], dtype=torch.int32), count)
        positions = torch.arange(count)[None]
        with _output_of(self._network.decoder.layers[0]) as found:
            self._network(
                positions, positions, None, decoder_input=hidden_TH[:, None].clone(), packed_seq_params=packed
            )
        return found[0][:, 0]

    def _fill(self, parameter: torch.nn.Parameter, _: str = "") -> None:
        """Read a parameter's box in blocks: no second copy is made."""
        held = self._held[id(parameter)]
        name = held.spec.name.replace(f"{LAYER_PREFIX}0.", f"{LAYER_PREFIX}{self._number}.", 1)
        held.parameter.data = torch.empty(held.shape)
        for rows in _row_blocks(held.shape):
            place = (held.offset[0] + rows.start, *held.offset[1:])
            shape = (rows.stop - rows.start, *held.shape[1:])
            held.parameter[rows] = self.source.read(name, offset=place, shape=shape).float()

    def norm(self, hidden_TH: Tensor) -> Tensor:
        return _normed(hidden_TH, self.model, lambda name: self.source.read(name).float())

    def output_rows(self, start: int, stop: int) -> Tensor:
        return self._rows(WORD_EMBEDDINGS if self.model.tied_embeddings else OUTPUT_LAYER, start, stop)


class _TransformersNetwork:
    def __init__(self, directory: Path, model: ModelConfig):
        from transformers import AutoConfig, AutoModel

        self.directory, self.model = directory, model
        self._table = find_architecture(model.architecture)
        self._files = weight_map(directory)
        config = AutoConfig.from_pretrained(directory)
        config.num_hidden_layers = 1
        config.vocab_size = 1
        config.pad_token_id = None  # it may be beyond that vocabulary
        if self._table.description.positions == "learned":
            config.max_position_embeddings = _LONGEST
        self._network = AutoModel.from_config(config, dtype=torch.float32).eval()
        # transformer.h.{}.ln_1: the list of layers is transformer.h.
        path = self._table.hf_names(f"{LAYER_PREFIX}0.input_layernorm.weight")[0].partition(".0.")[0].split(".")
        self._prefix = ".".join(path)
        self._layer = self._network.get_submodule(".".join(path[1:]))[0]
        self._shapes = {name: tuple(parameter.shape) for name, parameter in self._layer.named_parameters()}
        self._number = 0
        _stream(self._layer, self._fill)
        for module in self._network.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight.zero_()  # learned positions are added to whatever is put in

    def _read(self, name: str, rows: slice = slice(None)) -> Tensor:
        # With the safetensors library and transformers' names, independent of our reader.
        with safe_open(self.directory / self._files[name], "pt") as file:
            tensor: Tensor = file.get_slice(name)[rows].float()
        return tensor

    def embed(self, tokens_T: Tensor) -> Tensor:
        name = self._table.top[WORD_EMBEDDINGS]
        hidden = torch.cat([self._read(name, slice(token, token + 1)) for token in tokens_T.tolist()])
        if self._table.description.positions == "learned":
            hidden = hidden + self._read(self._table.top[POSITION_EMBEDDINGS], slice(0, tokens_T.numel()))
        return hidden

    def layer(self, number: int, hidden_TH: Tensor) -> Tensor:
        self._number = number
        for name, parameter in self._layer.named_parameters():
            if len(self._shapes[name]) == 1:
                self._fill(parameter, name)
        with _output_of(self._layer) as found:
            self._network(inputs_embeds=hidden_TH[None], use_cache=False)
        return found[0][0]

    def _fill(self, parameter: torch.nn.Parameter, name: str) -> None:
        parameter.data = torch.empty(self._shapes[name])
        for rows in _row_blocks(self._shapes[name]):
            parameter[rows] = self._read(f"{self._prefix}.{self._number}.{name}", rows)

    def norm(self, hidden_TH: Tensor) -> Tensor:
        return _normed(hidden_TH, self.model, lambda name: self._read(self._table.top[name]))

    def output_rows(self, start: int, stop: int) -> Tensor:
        name = self._table.top[WORD_EMBEDDINGS if self.model.tied_embeddings else OUTPUT_LAYER]
        return self._read(name, slice(start, stop))


@contextlib.contextmanager
def open_networks(sources: Sequence[Source]) -> Iterator[list[Network]]:
    """Open the serving network of each Hugging Face directory and the training network of everything else.

    Runs in this process; no process group may be up.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    with contextlib.ExitStack() as stack:
        networks: list[Network] = []
        grid: Any = None
        for source in sources:
            if source.format == "huggingface":
                networks.append(_TransformersNetwork(source.directory, source.manifest.model))
            else:
                grid = grid or stack.enter_context(_megatron())
                networks.append(_MegatronNetwork(source, grid))
        yield networks


@contextlib.contextmanager
def _megatron() -> Iterator[Any]:
    from megatron_octo.model.platform.mcore import load_mcore

    load_mcore()
    from megatron_octo.model.platform.grid import lone_grid

    with lone_grid(torch.device("cpu")) as grid:
        yield grid
