"""Generation in batches: prompts are read once, sequences that end make room, and each sample has its own stream."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from megatron_octo.evaluation.generation.open_model import OpenModel
from megatron_octo.evaluation.generation.sampling import as_signed, choose

CHECK_EVERY = 8  # tokens of a sequence between two looks at its text
_PREFILL_TOKENS = 1 << 15  # of the prompts that are read at once
_SHRINK = 0.75  # share of living sequences below which those that ended are taken out of the cache


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


@dataclass(frozen=True)
class Answer:
    """A finished sample: its tokens without the one that ended it, their text, and why it ended."""

    request: Request
    tokens: tuple[int, ...]
    text: str
    stop: str


@dataclass
class _Batch:
    """Sequences in flight: their requests, tokens so far, cache, and the attention mask, bool [B, L]."""

    requests: list[Request]
    tokens: list[list[int]]
    cache: Any
    mask: torch.Tensor
    positions: torch.Tensor
    last: torch.Tensor
    streams: torch.Tensor
    alive: list[bool] = field(default_factory=list)


class Engine:
    """Generates samples of a model.

    Args:
        model: an open one.
        temperature: 0: greedy.
        top_p: nucleus.
        batch: sequences at once.
        ended: tells from a sample's key and text why it may stop (``stop word``, ``syntax``), or None.
    """

    def __init__(
        self,
        model: OpenModel,
        temperature: float,
        top_p: float,
        batch: int,
        ended: Callable[[Any, str], str | None],
    ) -> None:
        self._model, self._temperature, self._top_p = model, temperature, top_p
        self._batch, self._ended = batch, ended

    def run(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Generate the samples; yields each when it has ended.

        Requests with one prompt that follow each other share its reading.
        """
        ready = [request for request in requests if request.room > 0]
        for request in requests:
            if request.room <= 0:
                yield Answer(request, (), "", "length")
        for first in range(0, len(ready), self._batch):
            yield from self._cohort(ready[first : first + self._batch])

    @torch.inference_mode()
    def _cohort(self, requests: list[Request]) -> Iterator[Answer]:
        batch, logits = self._read_prompts(requests)
        while True:
            steps = torch.tensor([len(tokens) for tokens in batch.tokens], device=logits.device)
            chosen = choose(logits, batch.streams, steps, self._temperature, self._top_p)
            batch.last = chosen[:, None]
            for place, token in enumerate(chosen.tolist()):
                if batch.alive[place] and (answer := self._append(batch, place, token)):
                    batch.alive[place] = False
                    yield answer
            living = sum(batch.alive)
            if not living:
                return
            if living <= _SHRINK * len(batch.requests):
                self._shrink(batch)
            logits = self._step(batch)

    def _append(self, batch: _Batch, place: int, token: int) -> Answer | None:
        """Add a token to a sequence; returns the answer if that ended it."""
        request, tokens = batch.requests[place], batch.tokens[place]
        if token in self._model.end_ids:
            return self._answer(request, tokens, "eos")
        tokens.append(token)
        full = len(tokens) >= request.room
        if len(tokens) % CHECK_EVERY == 0 or full:
            text = self._text(tokens)
            if why := self._ended(request.key, text):
                return Answer(request, tuple(tokens), text, why)
        return self._answer(request, tokens, "length") if full else None

    def _answer(self, request: Request, tokens: list[int], stop: str) -> Answer:
        return Answer(request, tuple(tokens), self._text(tokens), stop)

    def _text(self, tokens: list[int]) -> str:
        text: str = self._model.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def _step(self, batch: _Batch) -> torch.Tensor:
        """Read the last tokens; returns logits of the next, float [B, V]."""
        one = torch.ones((len(batch.requests), 1), dtype=torch.bool, device=batch.mask.device)
        batch.mask = torch.cat([batch.mask, one], dim=1)
        batch.positions = batch.positions + 1
        found = self._model.network(
            input_ids=batch.last,
            attention_mask=batch.mask.long(),
            position_ids=batch.positions[:, None],
            past_key_values=batch.cache,
            use_cache=True,
        )
        batch.cache = found.past_key_values
        logits: torch.Tensor = found.logits[:, -1]
        return logits

    def _shrink(self, batch: _Batch) -> None:
        """Take sequences that ended out of the batch, and columns that none of the others uses."""
        kept = [place for place, alive in enumerate(batch.alive) if alive]
        places = torch.tensor(kept, device=batch.mask.device)
        batch.cache.batch_select_indices(places)
        batch.mask, batch.positions = batch.mask[places], batch.positions[places]
        batch.last, batch.streams = batch.last[places], batch.streams[places]
        batch.requests = [batch.requests[place] for place in kept]
        batch.tokens = [batch.tokens[place] for place in kept]
        batch.alive = [True] * len(kept)

    def _read_prompts(self, requests: list[Request]) -> tuple[_Batch, torch.Tensor]:
        """Read each different prompt once; returns the batch and the logits of the first tokens, float [B, V]."""
        prompts = list(dict.fromkeys(request.prompt for request in requests))
        width = max(map(len, prompts))
        device, pad = self._model.device, self._model.end_ids[0] if self._model.end_ids else 0
        number = {prompt: place for place, prompt in enumerate(prompts)}
        places = torch.tensor([number[request.prompt] for request in requests], device=device)
        caches, logits, masks = [], [], []
        at_once = max(1, _PREFILL_TOKENS // width)
        for first in range(0, len(prompts), at_once):
            part = prompts[first : first + at_once]
            ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in part], device=device)
            mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in part], device=device)
            positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
            found = self._model.network(
                input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1
            )
            caches.append(found.past_key_values)
            logits.append(found.logits[:, -1])
            masks.append(mask.bool())
        cache = _joined(caches)
        cache.batch_select_indices(places)
        mask, scores = torch.cat(masks)[places], torch.cat(logits)[places]
        batch = _Batch(
            list(requests),
            [[] for _ in requests],
            cache,
            mask,
            mask.long().sum(dim=1) - 1,
            torch.zeros((len(requests), 1), dtype=torch.int64, device=device),
            as_signed([request.stream for request in requests]).to(device),
            [True] * len(requests),
        )
        return batch, scores


def _joined(caches: list[Any]) -> Any:
    """Put the caches of several readings together; sequences are the first axis."""
    first, *others = caches
    for place, layer in enumerate(first.layers):
        for name in ("keys", "values"):
            parts = [getattr(layer, name), *(getattr(other.layers[place], name) for other in others)]
            setattr(layer, name, torch.cat(parts) if others else parts[0])
    return first
