"""Compares two copies of a model: weights bit for bit, and logits of both networks on real text."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import megatron_octo
from megatron_octo.architectures.parameters import parameter_specs
from megatron_octo.checkpoint.fit import FREE_KEYS
from megatron_octo.checkpoint.source import BLOCK, Source
from megatron_octo.common.errors import OctoError
from megatron_octo.config.model import ModelConfig
from megatron_octo.conversion.proof.layers import Network, open_networks
from megatron_octo.conversion.readers.open_weights import open_weights
from megatron_octo.data.text.tokenizer import Tokenizer

TOLERANCE = 1e-4
_LENGTH = 512  # tokens compared
_ROWS = 2048  # of the vocabulary at once


@dataclass(frozen=True)
class Comparison:
    """Differences between two copies of a model, both computed in fp32.

    Attributes:
        weights_equal: whether every tensor is bit-equal; None if the dtypes differ.
        weights_max_abs: largest difference of a weight, in ``weights_tensor``.
        max_abs, mean_abs: differences of the logits.
        argmax_agreement: fraction of positions where both predict the same token.
        tokens: number of positions compared.
        layers: largest difference of the hidden states after each layer.
    """

    weights_equal: bool | None
    weights_max_abs: float
    weights_tensor: str | None
    max_abs: float
    mean_abs: float
    argmax_agreement: float
    tokens: int
    layers: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return asdict(self)


@torch.no_grad()
def verify(
    first: str | Path,
    second: str | Path,
    text: str | None = None,
    base: str | Path | None = None,
    vocab_size: int | None = None,
) -> Comparison:
    """Compare any two of run, checkpoint, Hugging Face directory and BigCode checkpoint.

    A Hugging Face directory is computed by transformers, everything else on Megatron-core. One matrix is in
    memory at a time.

    Args:
        first: as in :func:`open_weights`.
        second: as ``first``, in the same format or another.
        text: input of both networks; by default source code of this library.
        base: the weights beneath a LoRA run, if they were moved.
        vocab_size: real tokens of a BigCode checkpoint; by default the other side's number.

    Raises:
        OctoError: one of the two is missing or damaged, their shapes differ, or there is no tokenizer for the text.
    """
    one, other = _open_both(first, second, base, vocab_size)
    _check_shapes(one, other)
    for source in (one, other):
        source.check()
        source.check_text()
    equal, largest, tensor = _compare_weights(one, other)
    for source in (one, other):
        source.finish()
    tokens = _tokens(one, other, text)
    with open_networks((one, other)) as networks:
        hidden = [network.embed(tokens) for network in networks]
        layers = []
        for number in range(one.manifest.model.num_layers):
            hidden = [network.layer(number, each) for network, each in zip(networks, hidden)]
            layers.append(float((hidden[0] - hidden[1]).abs().max()))
        logits = _compare_logits(networks, hidden, one.manifest.model.vocab_size)
    return Comparison(equal, largest, tensor, **logits, tokens=tokens.numel(), layers=tuple(layers))


def _open_both(first: str | Path, second: str | Path, base: str | Path | None, vocab_size: int | None) -> list[Source]:
    paths = (first, second)
    found = [open_weights(path, stream=True, vocab_size=vocab_size, base=base, rounded=True) for path in paths]
    # A BigCode checkpoint may take rows of padding for tokens, as many as its writer's ranks made. The other side's
    # number counts, and of two such checkpoints the smaller.
    sizes = {source.manifest.model.vocab_size for source in found if source.format != "bigcode"}
    common = min(sizes or {source.manifest.model.vocab_size for source in found})
    for number, source in enumerate(found):
        if source.format == "bigcode" and source.manifest.model.vocab_size != common and vocab_size is None:
            found[number] = open_weights(paths[number], stream=True, vocab_size=common)
    return found


def _check_shapes(one: Source, other: Source) -> None:
    a, b = (source.manifest.model.model_dump(exclude=FREE_KEYS) for source in (one, other))
    differing = [f"{key} {a[key]} and {b[key]}" for key in a if a[key] != b[key]]
    if differing:
        raise OctoError(f"two different models: {', '.join(differing)}", where=other.directory)


def _compare_weights(one: Source, other: Source) -> tuple[bool | None, float, str | None]:
    """Return whether all are bit-equal (None: dtypes differ), the largest difference, and its tensor."""
    equal: bool | None = True
    largest, where = 0.0, None
    for name, spec in parameter_specs(one.manifest.model).items():
        width = torch.Size(spec.shape[1:]).numel()
        step = max(1, BLOCK // (width * 4))
        for row in range(0, spec.rows, step):  # without the padding
            rows = (row, min(spec.rows, row + step))
            blocks = []
            for source in (one, other):
                block = torch.empty(rows[1] - row, width, dtype=source.dtype(name))
                source.rows(name, "weights", rows, (0, width), block)
                blocks.append(block)
            a, b = blocks
            if a.dtype != b.dtype:
                equal = None
            elif torch.equal(a.view(torch.uint8), b.view(torch.uint8)):
                continue
            elif equal:
                equal = False
            difference = float((a.float() - b.float()).abs().max())
            if not difference <= largest:  # NaN, too
                largest, where = difference, name
    return equal, largest, where


def _compare_logits(networks: list[Network], hidden: list[Tensor], vocabulary: int) -> dict[str, float]:
    last = [network.norm(each) for network, each in zip(networks, hidden)]
    largest, total = 0.0, 0.0
    best = [(torch.full((each.size(0),), -torch.inf), torch.zeros(each.size(0), dtype=torch.long)) for each in last]
    for start in range(0, vocabulary, _ROWS):
        stop = min(vocabulary, start + _ROWS)
        logits = [each @ network.output_rows(start, stop).T for network, each in zip(networks, last)]
        difference = (logits[0] - logits[1]).abs().nan_to_num(torch.inf)
        largest, total = max(largest, float(difference.max())), total + float(difference.double().sum())
        for side, each in enumerate(logits):
            values, places = each.max(-1)
            better = values > best[side][0]
            best[side] = (
                torch.where(better, values, best[side][0]),
                torch.where(better, places + start, best[side][1]),
            )
    return {
        "max_abs": largest,
        "mean_abs": total / (last[0].size(0) * vocabulary),
        "argmax_agreement": float((best[0][1] == best[1][1]).double().mean()),
    }


def _tokens(one: Source, other: Source, text: str | None) -> Tensor:
    model: ModelConfig = one.manifest.model
    length = min(_LENGTH, model.max_position_embeddings)
    tokenizer = one.tokenizer or other.tokenizer
    if tokenizer is None:
        if text is not None:
            raise OctoError(
                "there is a text, and no tokenizer.json on either side to read it with",
                where=f"{one.directory} and {other.directory}",
                hint="put it beside the weights, or leave the text out: random tokens are compared then",
            )
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, model.vocab_size, (length,), generator=generator)
    sample = text or (Path(megatron_octo.__file__).parent / "config" / "sections.py").read_text(encoding="utf-8")
    tokens = torch.tensor(Tokenizer(tokenizer).encode([sample])[0][:length], dtype=torch.long)
    if not tokens.numel() or int(tokens.max()) >= model.vocab_size:
        what = f"token {int(tokens.max())}" if tokens.numel() else "no token"
        raise OctoError(
            f"this tokenizer makes {what} of the text, the model has {model.vocab_size} of them",
            where=tokenizer,
            hint="it is not the tokenizer of these weights",
        )
    return tokens
