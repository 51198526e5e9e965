"""Samples of all tasks of an evaluation, appended as they end."""

import importlib.metadata
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_bytes, write_json
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
from megatron_octo.evaluation.generation.queue import over_devices
from megatron_octo.evaluation.progress import Meter
from megatron_octo.evaluation.records import Sample

MEASURED = "generation.json"  # in the output: what was measured on the first GPU
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
            devices = _devices(options.device)
            share = max(1, -(-len(wanted) // len(devices)))
            produce(output, wanted, Work(folder, prompt.stop, rows, options, share), devices)


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

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False) if prompt.name == "chat" else None
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


def _devices(wanted: str | None) -> list[str]:
    """Return the devices to generate on: all GPUs, or the CPU."""
    import torch

    count = torch.cuda.device_count() if wanted != "cpu" else 0
    if wanted == "cuda" and not count:
        raise OctoError("no GPU here", where="--device")
    return [f"cuda:{number}" for number in range(count)] or ["cpu"]


def produce(
    output: Path,
    wanted: Sequence[Wanted],
    work: Callable[[str, Iterable[Wanted]], Iterator[Sample | bool]],
    devices: Sequence[str],
) -> None:
    """Generate on one process per device, or in this process on the only one, and append what comes.

    Long prompts are first: what does not fit in memory shows at once. Samples of one prompt stay together.
    """
    ordered = sorted(wanted, key=lambda one: (-len(one.prompt), one.prompt))
    problems = len({one.place[:2] for one in wanted})
    if len(devices) == 1:
        found = work(devices[0], ordered)
    else:
        groups = [list(group) for _, group in groupby(ordered, key=lambda one: one.prompt)]
        found = over_devices(devices, groups, work)
    files: dict[str, records.Lines] = {}
    left = Counter(one.place[:2] for one in wanted)
    tokens = done = 0
    try:
        with Meter("generate", len(wanted)) as meter:
            for sample in found:
                if isinstance(sample, bool):
                    write_json(output / MEASURED, {"batch_invariant": sample})
                    continue
                if sample.task not in files:
                    files[sample.task] = records.Lines(records.samples_path(output, sample.task))
                files[sample.task].append(records.sample_record(sample))
                tokens += sample.tokens
                left[sample.task, sample.problem] -= 1
                done += not left[sample.task, sample.problem]
                meter.add(f"{done:,} of {problems:,} problems, {tokens:,} tokens")
    finally:
        for file in files.values():
            file.close()


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


@dataclass(frozen=True)
class Work:
    """What a process does on its device.

    Attributes:
        folder: of the model.
        stop: texts that end an answer.
        rows: by language.
        share: samples that a device has at once at most, so that all devices have some.
    """

    folder: Path
    stop: tuple[str, ...]
    rows: Mapping[str, Sequence[Row]]
    options: Options
    share: int

    def __call__(self, device: str, items: Iterable[Wanted]) -> Iterator[Sample | bool]:
        """Yield samples; on the first GPU, before them, whether answers are the same in every batch."""
        from megatron_octo.evaluation.generation.batches import Request
        from megatron_octo.evaluation.generation.engine import Engine, batch_invariant
        from megatron_octo.evaluation.generation.sampling import stream_key

        options = self.options
        model = open_model(self.folder, device, options.precision)
        if device == "cuda:0":
            texts = [row.prompt for found in self.rows.values() for row in found[:8]][:8]
            yield batch_invariant(model, [tuple(model.tokenizer(text)["input_ids"]) for text in texts])
        limit = min(options.max_length, model.longest or options.max_length)
        digests: dict[Place, str] = {}

        def request(one: Wanted) -> Request:
            prompt = tuple(model.tokenizer(one.prompt)["input_ids"])
            digests[one.place] = digest_bytes(one.prompt.encode(errors="replace"))
            return Request(
                one.place, prompt, stream_key(options.seed, *one.place), limit - len(prompt) if prompt else 0
            )

        batch = options.batch_size or min(default_batch(model, options.max_length), self.share)
        engine = Engine(model, options.temperature, options.top_p, batch, ended_by(self.rows, self.stop))
        for answer in engine.run(map(request, items)):
            task, problem, number = place = answer.request.key
            yield Sample(task, problem, number, answer.text, len(answer.tokens), answer.stop, digests.pop(place))


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
