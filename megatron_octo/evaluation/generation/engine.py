"""Generation in batches: prompts are read once, sequences that end make room, and each sample has its own stream."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from transformers import DynamicCache

from megatron_octo.evaluation.generation.batches import Batch, Request, joined
from megatron_octo.evaluation.generation.open_model import OpenModel
from megatron_octo.evaluation.generation.sampling import as_signed, choose

CHECK_EVERY = 8  # tokens of a sequence between two looks at its text
_PREFILL_TOKENS = 1 << 15  # of the prompts that are read at once
_FULL = 0.75  # share of living sequences below which those that ended are taken out, and others begin


@dataclass(frozen=True)
class Answer:
    """A finished sample: its tokens without the one that ended it, their text, and why it ended."""

    request: Request
    tokens: tuple[int, ...]
    text: str
    stop: str


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

    def run(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Generate the samples; yields each when it has ended.

        Requests with one prompt that follow each other share its reading. A request is taken when there is room for it,
        so that several engines can take theirs from one queue.
        """
        waiting, batch = iter(requests), None
        while True:
            living = batch.living if batch else 0
            if living <= _FULL * self._batch:
                taken = list(islice(waiting, self._batch - living))
                yield from (Answer(request, (), "", "length") for request in taken if request.room <= 0)
                wanted = [request for request in taken if request.room > 0]
                if wanted:
                    batch = self._begin(batch if living else None, wanted)
                    yield from self._choose(batch)
                    continue
                if taken:
                    continue
            if not batch or not living:
                return
            if living <= _FULL * len(batch.requests):
                batch.keep_living()
            self._step(batch)
            yield from self._choose(batch)

    def _choose(self, batch: Batch) -> Iterator[Answer]:
        """Add a token to each sequence; yields those that it ended."""
        for place, token in enumerate(self._next(batch)):
            if batch.alive[place] and (answer := self._append(batch, place, token)):
                batch.alive[place] = False
                yield answer

    @torch.inference_mode()
    def _next(self, batch: Batch) -> list[int]:
        """Choose a token for each sequence."""
        steps = torch.tensor([len(tokens) for tokens in batch.tokens], device=batch.mask.device)
        chosen = choose(batch.logits, batch.streams, steps, self._temperature, self._top_p)
        batch.last = chosen[:, None]
        tokens: list[int] = chosen.tolist()
        return tokens

    def _append(self, batch: Batch, place: int, token: int) -> Answer | None:
        """Add a token to a sequence; returns the answer if that ended it."""
        request, tokens = batch.requests[place], batch.tokens[place]
        if token in self._model.end_ids:
            return Answer(request, tuple(tokens), self._text(tokens), "eos")
        tokens.append(token)
        full = len(tokens) >= request.room
        if len(tokens) % CHECK_EVERY and not full:
            return None
        text = self._text(tokens)
        why = self._ended(request.key, text) or ("length" if full else None)
        return Answer(request, tuple(tokens), text, why) if why else None

    def _text(self, tokens: list[int]) -> str:
        text: str = self._model.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    @torch.inference_mode()
    def _step(self, batch: Batch) -> None:
        """Read the tokens that were chosen last, and compute the logits of the next."""
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
        batch.logits = found.logits[:, -1]

    @torch.inference_mode()
    def _begin(self, batch: Batch | None, requests: Sequence[Request]) -> Batch:
        """Read prompts, each different one once, and add their sequences to those in flight, which go a token further.

        Returns a batch with the logits of all sequences' next tokens.
        """
        fresh = self._read_prompts(requests)
        if batch is None:
            return fresh
        batch.keep_living()
        self._step(batch)
        batch.extend(fresh)
        return batch

    def _read_prompts(self, requests: Sequence[Request]) -> Batch:
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
            found = self._model.network(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(dim=-1) - 1).clamp(min=0),
                past_key_values=DynamicCache(),  # whole also for layers with a window, which is in the mask
                use_cache=True,
                logits_to_keep=1,
            )
            caches.append(found.past_key_values)
            logits.append(found.logits[:, -1])
            masks.append(mask.bool())
        mask = torch.cat(masks)[places]
        return Batch(
            list(requests),
            [[] for _ in requests],
            joined(caches, places),
            mask,
            mask.long().sum(dim=1) - 1,
            torch.zeros((len(requests), 1), dtype=torch.int64, device=device),
            as_signed([request.stream for request in requests]).to(device),
            torch.cat(logits)[places],
            [True] * len(requests),
        )


def batch_invariant(model: OpenModel, prompts: Sequence[tuple[int, ...]], tokens: int = 32) -> bool:
    """Measure whether greedy answers are the same alone and in one batch, as they are where no rounding differs.

    Args:
        model: an open one.
        prompts: token ids; eight different ones are enough to show a difference.
        tokens: of each answer at most.
    """
    wanted = [Request(number, prompt, 0, tokens) for number, prompt in enumerate(prompts) if prompt]
    found = []
    for batch in (1, max(1, len(wanted))):
        engine = Engine(model, 0.0, 1.0, batch, lambda key, text: None)
        answers = engine.run(wanted)
        found.append({answer.request.key: answer.tokens for answer in answers})
    return found[0] == found[1]
