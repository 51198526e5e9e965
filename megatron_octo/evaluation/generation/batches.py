"""Sequences in flight: their tokens, keys and values, made smaller as they end and larger as others begin.

Each sequence lies at the right edge: its prompt and tokens are the last columns, with unused ones before them.
"""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Request:
    """A sample that is wanted.

    Attributes:
        key: the caller's name for it.
        prompt: token ids.
        stream: key of its random stream.
        room: tokens that it may have at most.
    """

    key: Any
    prompt: tuple[int, ...]
    stream: int
    room: int


@dataclass
class Batch:
    """Sequences in flight.

    Attributes:
        requests: what they are for.
        tokens: what was generated so far.
        cache: keys and values, transformers' ``DynamicCache``: [B, heads, L, width] per layer.
        mask: columns that a sequence uses, bool [B, L].
        positions: of the last token that was read, int64 [B].
        last: the token that was chosen last, int64 [B, 1].
        streams: keys of the random streams, int64 [B].
        logits: of the next token, float [B, V].
        alive: False once a sequence has ended.
    """

    requests: list[Request]
    tokens: list[list[int]]
    cache: Any
    mask: torch.Tensor
    positions: torch.Tensor
    last: torch.Tensor
    streams: torch.Tensor
    logits: torch.Tensor
    alive: list[bool]

    @property
    def living(self) -> int:
        """Return the number of sequences that go on."""
        return sum(self.alive)

    def keep_living(self) -> None:
        """Take out sequences that ended, and the columns that none of the others uses."""
        kept = [place for place, alive in enumerate(self.alive) if alive]
        if len(kept) == len(self.requests):
            return
        self.requests = [self.requests[place] for place in kept]
        self.tokens = [self.tokens[place] for place in kept]
        self.alive = [True] * len(kept)
        places = torch.tensor(kept, dtype=torch.int64, device=self.mask.device)
        self.mask, self.positions = self.mask[places], self.positions[places]
        self.last, self.streams, self.logits = self.last[places], self.streams[places], self.logits[places]
        used = int(self.mask.any(dim=0).sum())
        self.mask = self.mask[:, self.mask.shape[1] - used :]
        for layer in self.cache.layers:
            unused = layer.keys.shape[-2] - used
            layer.keys = layer.keys[places, :, unused:]
            layer.values = layer.values[places, :, unused:]

    def extend(self, other: "Batch") -> None:
        """Add the sequences of another batch."""
        width = max(self.mask.shape[1], other.mask.shape[1])
        self.requests += other.requests
        self.tokens += other.tokens
        self.alive += other.alive
        self.mask = torch.cat([_widened(each.mask[..., None], width)[..., 0] for each in (self, other)])
        self.positions = torch.cat([self.positions, other.positions])
        self.last = torch.cat([self.last, other.last])
        self.streams = torch.cat([self.streams, other.streams])
        self.logits = torch.cat([self.logits, other.logits])
        for layer, another in zip(self.cache.layers, other.cache.layers, strict=True):
            layer.keys = torch.cat([_widened(layer.keys, width), _widened(another.keys, width)])
            layer.values = torch.cat([_widened(layer.values, width), _widened(another.values, width)])
            another.keys = another.values = None  # memory of one layer at a time is needed twice


def _widened(values: torch.Tensor, width: int) -> torch.Tensor:
    """Put zeros before the second last axis."""
    return torch.nn.functional.pad(values, (0, 0, width - values.shape[-2], 0))


def joined(caches: list[Any], places: torch.Tensor) -> Any:
    """Put caches of several readings together, and return a cache with the sequences at ``places``."""
    first, *others = caches
    for number, layer in enumerate(first.layers):
        for name in ("keys", "values"):
            parts = [getattr(layer, name), *(getattr(other.layers[number], name) for other in others)]
            setattr(layer, name, (torch.cat(parts) if others else parts[0])[places])
    return first
