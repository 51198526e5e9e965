"""The same tokens whatever the batch, the order and what was there before; and those of transformers."""

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_octo.evaluation.generation import engine as engines
from megatron_octo.evaluation.generation.batches import Request
from megatron_octo.evaluation.generation.engine import Answer, Engine, batch_invariant
from megatron_octo.evaluation.generation.open_model import OpenModel, open_model
from megatron_octo.evaluation.generation.sampling import choose, stream_key
from tests.evaluation.generation.tiny import write_model

TEXTS = ["def f(x):\n", "fn main() {", "a", "Question: why?\n\nAnswer:\n", "x" * 60, "const f = (x) => {\n", "0 1 2"]


@pytest.fixture(scope="module", params=["gpt_bigcode", "starcoder2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OpenModel:
    return open_model(write_model(tmp_path_factory.mktemp("model") / request.param, request.param), "cpu", None)


def requests(model: OpenModel, samples: int, room: int = 40) -> list[Request]:
    found = []
    for problem, text in enumerate(TEXTS):
        prompt = tuple(model.tokenizer(text)["input_ids"])
        found += [
            Request((problem, sample), prompt, stream_key(0, "task", problem, sample), room - problem)
            for sample in range(samples)
        ]
    return found


def never(_: Any, __: str) -> None:
    return None


def tokens(
    model: OpenModel, wanted: list[Request], batch: int, temperature: float, ended: Any = never
) -> dict[Any, Any]:
    made = Engine(model, temperature, 0.95, batch, ended)
    answers: list[Answer] = list(made.run(wanted))
    assert len(answers) == len(wanted)
    return {answer.request.key: (answer.tokens, answer.stop) for answer in answers}


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_batch_order_and_resumption_change_nothing(model: OpenModel, temperature: float) -> None:
    wanted = requests(model, samples=3)
    alone = tokens(model, wanted, 1, temperature)
    assert len({found for found, _ in alone.values()}) > len(TEXTS) * (temperature > 0)
    assert tokens(model, wanted, 3, temperature) == alone
    assert tokens(model, wanted, 17, temperature) == alone
    shuffled = random.Random(1).sample(wanted, len(wanted))
    assert tokens(model, shuffled, 17, temperature) == alone
    assert tokens(model, wanted[5:], 17, temperature) == {key: alone[key] for key in (one.key for one in wanted[5:])}


@pytest.mark.slow
def test_a_stream_that_depends_on_the_batch_is_found(model: OpenModel, monkeypatch: pytest.MonkeyPatch) -> None:
    real = choose

    def by_place(logits: Any, keys: Any, *rest: Any) -> Any:
        return real(logits, torch.arange(len(keys)), *rest)

    monkeypatch.setattr(engines, "choose", by_place)
    wanted = requests(model, samples=3)
    assert tokens(model, wanted, 1, 0.8) != tokens(model, wanted, 17, 0.8)


def test_greedy_is_that_of_transformers(model: OpenModel) -> None:
    wanted = requests(model, samples=1)
    found = tokens(model, wanted, 4, 0.0)
    for request in wanted:
        made = model.network.generate(
            torch.tensor([request.prompt]), max_new_tokens=request.room, do_sample=False, pad_token_id=0
        )[0, len(request.prompt) :].tolist()
        expected = made[:-1] if made[-1] == 0 else made
        assert list(found[request.key][0]) == expected


def test_why_an_answer_ends(model: OpenModel) -> None:
    wanted = requests(model, samples=1)
    free = tokens(model, wanted, 4, 0.8)
    assert {stop for _, stop in free.values()} <= {"eos", "length"}
    assert all(len(found) == one.room for one in wanted for found, stop in [free[one.key]] if stop == "length")
    # Texts are looked at every eight tokens, whatever the batch.
    asked: list[int] = []

    def after_ten(_: Any, text: str) -> str | None:
        asked.append(len(text))
        return "syntax" if len(text.encode(errors="replace")) >= 10 else None

    stopped = tokens(model, wanted, 4, 0.8, after_ten)
    assert stopped == tokens(model, wanted, 1, 0.8, after_ten)
    assert "syntax" in {stop for _, stop in stopped.values()} and asked
    rooms = {one.key: one.room for one in wanted}
    for key, (found, stop) in stopped.items():
        assert free[key][0][: len(found)] == found
        assert stop != "syntax" or len(found) % engines.CHECK_EVERY == 0 or len(found) == rooms[key]


def test_prompts_without_room_get_empty_answers(model: OpenModel) -> None:
    wanted = [Request("none", (5, 6), 1, 0), Request("some", (5, 6), 1, 3)]
    found = tokens(model, wanted, 4, 0.8)
    assert found["none"] == ((), "length") and len(found["some"][0]) <= 3


class Watched:
    """A network that keeps the shape of what it reads, and may be made to depend on the batch."""

    def __init__(self, network: Any, shift: float = 0.0) -> None:
        self.network, self.shift = network, shift
        self.read: list[tuple[int, ...]] = []

    def __call__(self, **given: Any) -> Any:
        self.read.append(tuple(given["input_ids"].shape))
        found = self.network(**given)
        found.logits[..., 1] += self.shift * (len(found.logits) > 1)
        return found


@pytest.mark.slow
def test_prompts_are_read_once_and_places_are_refilled(model: OpenModel) -> None:
    wanted = requests(model, samples=4)
    watched = Watched(model.network)
    free = tokens(dataclasses.replace(model, network=watched), wanted, 8, 0.8)
    assert free == tokens(model, wanted, 1, 0.8)
    prompts = sum(rows for rows, columns in watched.read if columns > 1)
    # A prompt is read again only where its samples did not begin together.
    assert len(TEXTS) <= prompts + sum(len(text) == 1 for text in TEXTS) <= 2 * len(TEXTS)
    busy = [rows for rows, columns in watched.read if columns == 1]
    assert max(busy) <= 8 and sum(rows == 8 for rows in busy) > len(busy) / 3


def test_a_queue_is_taken_from_only_when_there_is_room(model: OpenModel) -> None:
    wanted, taken = requests(model, samples=2), 0

    def queue() -> Any:
        nonlocal taken
        for request in wanted:
            taken += 1
            yield request

    for number, _ in enumerate(Engine(model, 0.0, 1.0, 4, never).run(queue()), start=1):
        assert taken - number <= 4
    assert taken == len(wanted)


def test_invariance_is_measured(model: OpenModel) -> None:
    prompts = [tuple(model.tokenizer(text)["input_ids"]) for text in TEXTS]
    assert batch_invariant(model, prompts)
    assert not batch_invariant(dataclasses.replace(model, network=Watched(model.network, 100.0)), prompts)


def test_a_window_is_that_of_transformers(tmp_path: Path) -> None:
    narrow = open_model(write_model(tmp_path / "narrow", "starcoder2", window=16), "cpu", None)
    wide = open_model(write_model(tmp_path / "wide", "starcoder2"), "cpu", None)
    wanted = requests(narrow, samples=1)
    found = tokens(narrow, wanted, 3, 0.0)
    assert found != tokens(wide, wanted, 3, 0.0)
    for request in wanted:
        made = narrow.network.generate(
            torch.tensor([request.prompt]), max_new_tokens=request.room, do_sample=False, pad_token_id=0
        )[0, len(request.prompt) :].tolist()
        assert list(found[request.key][0]) == [token for token in made if token]
