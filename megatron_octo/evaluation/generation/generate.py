"""Samples of all tasks of an evaluation, appended as they end."""

import importlib.metadata
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_bytes
from megatron_octo.evaluation import records
from megatron_octo.evaluation.benchmark.cutting import description, finished
from megatron_octo.evaluation.benchmark.prompts import Prompt, load_prompt
from megatron_octo.evaluation.benchmark.rows import Row, data_digest
from megatron_octo.evaluation.benchmark.tasks import Task, task_named
from megatron_octo.evaluation.generation.open_model import (
    OpenModel,
    hugging_face_directory,
    model_digest,
    open_model,
)
from megatron_octo.evaluation.progress import Meter
from megatron_octo.evaluation.records import Sample

if TYPE_CHECKING:
    from megatron_octo.evaluation.generation.engine import Request

Place = tuple[str, int, int]  # task, problem, sample


@dataclass(frozen=True)
class Options:
    """How samples are drawn; evaluate's options of the same names.

    Attributes:
        part: (I, N): every Nth problem from the Ith on.
    """

    prompt: str
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_length: int = 2048
    seed: int = 0
    batch_size: int | None = None
    precision: str | None = None
    device: str | None = None
    part: tuple[int, int] = (0, 1)


@dataclass(frozen=True)
class Wanted:
    """A sample that is to be made: its place, and the text that the model continues."""

    place: Place
    prompt: str


def generate(
    output: Path, tasks: Sequence[Task], rows: Mapping[str, Sequence[Row]], model: Path, options: Options
) -> None:
    """Generate what is not there yet.

    Args:
        output: directory of the evaluation.
        tasks: in their order: descriptions come before what is made of them.
        rows: by language.
        model: Hugging Face directory, run or checkpoint.
        options: of sampling.

    Raises:
        OctoError: the prompt cannot ask a task, results of other options lie there, or the model cannot be opened.
    """
    prompt = load_prompt(options.prompt)
    for task in tasks:
        prompt.check(task)
    if not options.temperature >= 0 or not 0 < options.top_p <= 1:
        raise OctoError("--temperature is at least 0, --top-p from above 0 to 1", where="evaluate generate")
    folder = hugging_face_directory(model, output / "model")
    values = {
        "model": str(model),
        "model_digest": model_digest(folder),
        "prompt": prompt.name,
        "prompt_digest": prompt.digest,
        "stop": list(prompt.stop),
        "temperature": options.temperature,
        "top_p": options.top_p,
        "max_length": options.max_length,
        "seed": options.seed,
        "transformers": importlib.metadata.version("transformers"),
        **{f"data.{name}": data_digest(found) for name, found in rows.items()},
    }
    records.open_header(output, "generation", values)
    for phase in (
        [task for task in tasks if task.scenario != "explainsynthesize"],
        [task for task in tasks if task.scenario == "explainsynthesize"],
    ):
        wanted = _wanted(output, phase, rows, prompt, folder, options)
        if wanted:
            _devices(output, wanted, rows, prompt, folder, options)


def _wanted(
    output: Path,
    tasks: Sequence[Task],
    rows: Mapping[str, Sequence[Row]],
    prompt: Prompt,
    folder: Path,
    options: Options,
) -> list[Wanted]:
    """Return the samples that are not there yet, those of one prompt beside each other."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder) if prompt.name == "chat" else None
    part, of = options.part
    found = []
    for task in tasks:
        there = records.read_samples(output, task.name)
        told = {}
        if task.scenario == "explainsynthesize":
            told = records.read_samples(output, Task("explaindescribe", task.language).name)
        for place, row in enumerate(rows[task.language]):
            if place % of != part:
                continue
            texts: dict[int, str] = {}
            if task.scenario == "explainsynthesize":
                for (problem, number), sample in sorted(told.items()):
                    if problem == row.number and number < options.samples:
                        words = description(row, sample.text, stop=prompt.stop)
                        texts[number] = prompt.text(task, row, words, tokenizer)
                if not texts:
                    task.context(row, None)  # says what is missing
            else:
                texts = dict.fromkeys(range(options.samples), prompt.text(task, row, None, tokenizer))
            found += [
                Wanted((task.name, row.number, number), text)
                for number, text in texts.items()
                if (row.number, number) not in there
            ]
    return found


def _devices(
    output: Path,
    wanted: Sequence[Wanted],
    rows: Mapping[str, Sequence[Row]],
    prompt: Prompt,
    folder: Path,
    options: Options,
) -> None:
    """Generate on one process per GPU, or in this process on one device."""
    import torch

    count = torch.cuda.device_count() if options.device != "cpu" else 0
    if options.device == "cuda" and not count:
        raise OctoError("no GPU here", where="--device")
    if count <= 1:
        device = "cuda" if count else "cpu"
        _work(output, list(wanted), rows, prompt, open_model(folder, device, options.precision), options)
        return
    import torch.multiprocessing as processes

    # Samples of one prompt stay together; problems are dealt out like cards, so that all GPUs end at about one time.
    places = {place: number for number, place in enumerate(dict.fromkeys(one.place[:2] for one in wanted))}
    shares = [[one for one in wanted if places[one.place[:2]] % count == number] for number in range(count)]
    context = processes.spawn(
        _gpu, (output, shares, rows, options, folder), nprocs=count, join=False, start_method="spawn"
    )
    while not context.join():
        pass


def _gpu(
    number: int,
    output: Path,
    shares: Sequence[Sequence[Wanted]],
    rows: Mapping[str, Sequence[Row]],
    options: Options,
    folder: Path,
) -> None:
    model = open_model(folder, f"cuda:{number}", options.precision)
    _work(output, list(shares[number]), rows, load_prompt(options.prompt), model, options)


def ended_by(rows: Mapping[str, Sequence[Row]], stop: Sequence[str]) -> Callable[[Place, str], str | None]:
    """Return the function that tells why an answer may stop."""
    by_place = {(name, row.number): row for name, found in rows.items() for row in found}

    def ended(place: Place, text: str) -> str | None:
        if any(word in text for word in stop):
            return "stop word"
        task = task_named(place[0])
        if task.describes:
            return None
        row = by_place[task.language, place[1]]
        head = row.prompt if task.scenario == "explainsynthesize" else task.base(row)
        return "syntax" if finished(task.language, head.rstrip(), text) else None

    return ended


def _work(
    output: Path,
    wanted: list[Wanted],
    rows: Mapping[str, Sequence[Row]],
    prompt: Prompt,
    model: OpenModel,
    options: Options,
) -> None:
    """Generate on one device."""
    from megatron_octo.evaluation.generation.engine import Engine

    requests = _requests(wanted, model, options)
    batch = options.batch_size or default_batch(model, options.max_length)
    engine = Engine(model, options.temperature, options.top_p, batch, ended_by(rows, prompt.stop))
    digests = {one.place: digest_bytes(one.prompt.encode(errors="replace")) for one in wanted}
    files: dict[str, records.Lines] = {}
    tokens = 0
    try:
        with Meter("generate", len(requests)) as meter:
            for answer in engine.run(requests):
                task, problem, number = answer.request.key
                sample = Sample(
                    task, problem, number, answer.text, len(answer.tokens), answer.stop, digests[task, problem, number]
                )
                if task not in files:
                    files[task] = records.Lines(records.samples_path(output, task))
                files[task].append(records.sample_record(sample))
                tokens += len(answer.tokens)
                meter.add(f"{tokens:,} tokens")
    finally:
        for file in files.values():
            file.close()


def _requests(wanted: Sequence[Wanted], model: OpenModel, options: Options) -> "list[Request]":
    """Return the samples as token ids, long prompts first: what will not fit shows at once."""
    from megatron_octo.evaluation.generation.engine import Request
    from megatron_octo.evaluation.generation.sampling import stream_key

    limit = min(options.max_length, model.longest or options.max_length)
    ids: dict[str, tuple[int, ...]] = {}
    found = []
    for one in wanted:
        if one.prompt not in ids:
            ids[one.prompt] = tuple(model.tokenizer(one.prompt)["input_ids"])
        prompt = ids[one.prompt]
        room = limit - len(prompt) if prompt else 0
        found.append(Request(one.place, prompt, stream_key(options.seed, *one.place), room))
    order = {prompt: number for number, prompt in enumerate(sorted(ids.values(), key=lambda p: (-len(p), p)))}
    return sorted(found, key=lambda request: order[request.prompt])


def default_batch(model: OpenModel, max_length: int) -> int:
    """Return how many sequences fit: half of the free memory of a GPU for their keys and values, or 16 on a CPU."""
    import torch

    if model.device == "cpu":
        return 2 * (os.cpu_count() or 8)
    config = model.network.config
    heads = getattr(config, "num_key_value_heads", None) or (
        1 if getattr(config, "multi_query", False) else config.num_attention_heads
    )
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * heads * width * model.network.dtype.itemsize
    free, _ = torch.cuda.mem_get_info(model.device)
    return int(max(1, min(1024, free // 3 // (token * max_length))))
