"""The stages of a run and their commands, in one table."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from megatron_octo.cluster.profile import Profile
from megatron_octo.common.errors import OctoError
from megatron_octo.data.planning.paths import read_groups
from megatron_octo.recipe.loading import check_batch
from megatron_octo.recipe.schema import Recipe
from megatron_octo.runfiles.scores import EVALUATION

_ARRAY = re.compile(r"^0-(\d+)(%\d+)?$")


@dataclass(frozen=True)
class Order:
    """Everything that is decided about a run before a job is submitted.

    Attributes:
        folder: where the commands run, so that relative paths of the recipe mean what they mean here.
        array: preprocess as ``0-K`` or ``0-K%M`` tasks, as sbatch writes it.
        arguments: further arguments of a stage's command.
        python: interpreter that runs the project's own tools in a job; ``task_python`` that of the tasks.
    """

    recipe: Recipe
    profile: Profile
    stages: tuple[str, ...]
    folder: Path
    python: str
    array: str | None = None
    arguments: dict[str, list[str]] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.folder / self.recipe.run_dir

    @property
    def task_python(self) -> str:
        """Interpreter of the tasks."""
        return self.profile.python or self.python

    @property
    def world(self) -> int:
        """Number of ranks."""
        return self.profile.nodes * self.profile.gpus_per_node

    @property
    def hugging_face(self) -> Path:
        """The exported model, which ``convert`` writes and ``verify`` reads."""
        return self.run / "hf"

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe."""
        return self.run / "submit" / "recipe.yaml"

    @property
    def tasks(self) -> int:
        """Tasks of the array."""
        match = _ARRAY.match(self.array or "")
        return int(match[1]) + 1 if match else 1


@dataclass(frozen=True)
class Command:
    """One command of a stage.

    Attributes:
        module: of the library; ``words`` are its arguments.
        task: whether an array's task adds ``--task I/N``.
    """

    module: str
    words: list[str]
    task: bool = False


@dataclass(frozen=True)
class Stage:
    """A stage: its purpose in one line, its commands, and ``ranks``: one task per GPU on all nodes, or one in all."""

    purpose: str
    commands: Callable[[Order], list[Command]]
    ranks: bool = False


def _preprocess(order: Order) -> list[Command]:
    words = ["--output-prefix", _prefix(order), "--tokenizer", str(order.recipe.data.tokenizer)]
    given = order.arguments.get("preprocess", [])
    return [Command("megatron_octo.preprocess", [*words, *given], task=order.array is not None)]


def _merge(order: Order) -> list[Command]:
    (make,) = _preprocess(order)
    return [Command(make.module, [*make.words, "--merge"])]


def _train(order: Order) -> list[Command]:
    return [Command("megatron_octo.train", [str(order.recipe_file)])]


def _convert(order: Order) -> list[Command]:
    words = ["to-hf", str(order.run), str(order.hugging_face), "--renew"]
    return [Command("megatron_octo.convert", [*words, *order.arguments.get("convert", [])])]


def _verify(order: Order) -> list[Command]:
    words = ["verify", str(order.run), str(order.hugging_face), "--json", str(order.run / "verify.json")]
    return [Command("megatron_octo.convert", [*words, *order.arguments.get("verify", [])])]


def _evaluate(order: Order) -> list[Command]:
    model = order.hugging_face if "convert" in order.stages else order.run
    words = ["run", "--model", str(model), "--output", str(order.run / EVALUATION)]
    return [Command("megatron_octo.evaluate", [*words, *order.arguments.get("evaluate", [])])]


# In the order of a chain. Scripts, chain and status follow from this table; a new stage also needs its name in
# profile._STAGE and an option for its arguments in submit.py.
STAGES = {
    "preprocess": Stage("rows of text to the data set that data.train names", _preprocess),
    "train": Stage("training, until it is finished", _train, ranks=True),
    "convert": Stage("the newest checkpoint to RUN/hf", _convert),
    "verify": Stage("the proof that RUN/hf computes what the checkpoint does", _verify),
    "evaluate": Stage("the scores of RUN/hf, or else of the newest checkpoint, on HumanEvalPack", _evaluate),
}
MERGE = Stage("the shards of an array's tasks put together", _merge)


def stage_of(name: str) -> Stage:
    """Return a stage, or the merge after the tasks of an array."""
    return MERGE if name == "merge" else STAGES[name]


def links(stage: str, array: object) -> tuple[str, ...]:
    """Return the jobs of a stage: with an array two, the tasks and their merge."""
    return ("preprocess", "merge") if stage == "preprocess" and array is not None else (stage,)


def read_stages(text: str) -> tuple[str, ...]:
    """``train,convert`` as names in the order of the table.

    Raises:
        OctoError: a name that is no stage.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in STAGES]:
        raise OctoError(f"unknown stage {unknown[0]!r}", where="--stages", hint=f"the stages: {', '.join(STAGES)}")
    if not names:
        raise OctoError("no stage is named", where="--stages", hint=f"the stages: {', '.join(STAGES)}")
    return tuple(name for name in STAGES if name in names)


def check_order(order: Order) -> None:
    """Find now what would fail in a job hours later.

    Raises:
        OctoError: the layout does not fit the nodes, or a stage lacks something.
    """
    if "train" in order.stages:
        _check_layout(order)
    if order.array is not None and not _ARRAY.match(order.array):
        raise OctoError(
            f"cannot read --array {order.array}",
            where="--array",
            hint="0-7 for eight tasks, 0-7%4 for four at a time",
        )
    if order.array is not None and "preprocess" not in order.stages:
        raise OctoError("--array is about preprocess, which is no stage of this run", where="--array")
    if "preprocess" in order.stages and order.recipe.data.tokenizer is None:
        raise OctoError(
            "preprocess needs a tokenizer", where="data.tokenizer", hint="name a tokenizer.json in the recipe"
        )


def _check_layout(order: Order) -> None:
    nodes, gpus, recipe = order.profile.nodes, order.profile.gpus_per_node, order.recipe
    try:
        check_batch(recipe, recipe.parallel.layout.replicas(order.world))
    except OctoError as error:
        have = f"{nodes} node{'s' * (nodes > 1)} x {gpus} GPU{'s' * (gpus > 1)} = {order.world} ranks"
        raise OctoError(f"{have}: {error.what}", where="--nodes, --gpus-per-node", hint=error.hint) from None


def _prefix(order: Order) -> str:
    sources = {source.prefix for group in read_groups(order.recipe.data.train) for source in group.sources}
    if len(sources) != 1:
        raise OctoError(
            f"data.train names {len(sources)} data sets; preprocess as a stage makes one",
            where="--stages",
            hint="make the others with python -m megatron_octo.preprocess before",
        )
    return sources.pop()
