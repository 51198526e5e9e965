"""What a cluster needs said once: ``clusters/NAME.yaml``, as a strict and frozen object."""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError

from megatron_octo.common.errors import OctoError
from megatron_octo.config.model import Count, PositiveInt, Section

FOLDER = Path("clusters")


class _Loader(yaml.SafeLoader):
    """Safe YAML in which ``20:00:00`` is text, not a number to the base of sixty."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if not tag.endswith((":int", ":float", ":timestamp"))]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?\d+$"), list("-+0123456789"))


# sbatch --time: minutes, minutes:seconds, hours:minutes:seconds, or with days before.
TIME = r"^(\d+|\d+:\d+|\d+:\d+:\d+|\d+-\d+|\d+-\d+:\d+|\d+-\d+:\d+:\d+)$"
_TIME = Annotated[str, Field(pattern=TIME)]
_VARIABLE = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
_OPTION = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]*$")]
_STAGE = Literal["preprocess", "merge", "train", "convert", "verify"]  # stages.py has them; a test compares


class Container(Section):
    """An image that srun starts the tasks in (Pyxis: ``--container-image``)."""

    image: str
    mounts: list[str] = Field(default_factory=list)  # HOST:CONTAINER[:FLAGS]
    options: list[str] = Field(default_factory=list)  # further arguments of srun


class Resources(Section):
    """What one stage gets; what is not said is the profile's."""

    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    cpus_per_task: PositiveInt | None = None
    memory: str | None = None  # sbatch --mem: 64G; 0: all of the node
    time: _TIME | None = None


class Profile(Section):
    """A cluster, as far as sbatch and the tasks have to know it. docs/slurm.md describes the keys."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    nodes: PositiveInt = 1
    gpus_per_node: PositiveInt = 8
    gpu: str | None = None  # as `plan --gpu` names it: then what cannot fit is refused
    cpus_per_task: PositiveInt = 8
    memory: str | None = "0"
    time: _TIME = "20:00:00"
    exclusive: bool = True  # whole nodes for training
    signal_seconds: PositiveInt = 120  # before the time limit: save and leave
    max_restarts: Count = 3  # in a row that bring no new checkpoint
    modules: list[str] = Field(default_factory=list)
    container: Container | None = None
    environment: dict[_VARIABLE, str] = Field(default_factory=dict)
    scratch: str | None = None  # made on the job's nodes, for temporary files and compilers' caches
    setup: list[str] = Field(default_factory=list)  # lines of shell before everything else
    python: str | None = None  # of the tasks; default: the one that submits
    srun: list[str] = Field(default_factory=list)
    sbatch: dict[_OPTION, str | int | bool] = Field(
        default_factory=dict
    )  # any other option: name without dashes
    stages: dict[_STAGE, Resources] = Field(default_factory=dict)

    def resources(self, stage: str) -> Resources:
        """What a stage gets; the merge of an array what preprocess gets, if not told otherwise."""
        own = self._own(stage)
        if stage != "merge":
            return own
        return self._own("preprocess").model_copy(update=own.model_dump(exclude_none=True))

    def _own(self, stage: str) -> Resources:
        return next((own for name, own in self.stages.items() if name == stage), Resources())


def find_profile(name: str | None) -> Profile:
    """The profile of a name (``clusters/NAME.yaml``) or of a file; without one, what sbatch does by itself.

    Raises:
        OctoError: there is no such file, or it has an unknown key or a wrong value.
    """
    if name is None:
        return Profile()
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = sorted(found.stem for found in FOLDER.glob("*.yaml")) if FOLDER.is_dir() else []
        there = f"here are {', '.join(known)}; " if known else ""
        raise OctoError(
            f"no cluster profile {name!r}",
            where=path,
            hint=f"{there}write one (docs/slurm.md), or say --cluster local to run on this machine",
        )
    try:
        return _parse(path.read_text(encoding="utf-8"), path)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise OctoError("not UTF-8", where=f"{path}:{line}", hint="save the file as UTF-8") from None


def _parse(text: str, path: Path) -> Profile:
    try:
        tree = yaml.load(text, Loader=_Loader) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise OctoError(
            f"not valid YAML: {what}", where=f"{path}:{mark.line + 1}" if mark else path
        ) from None
    if not isinstance(tree, dict):
        raise OctoError(
            "a cluster profile is a YAML mapping", where=path, hint="docs/slurm.md has an example"
        )
    try:
        return Profile.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, text, path) from None


def check_profile(tree: dict[str, Any]) -> Profile:
    """A profile changed by the command line.

    Raises:
        OctoError: a value is wrong.
    """
    try:
        return Profile.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, "", Path("command line")) from None


def _explain(error: ValidationError, text: str, path: Path) -> OctoError:
    problems, line = [], ""
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        leaf = str(item["loc"][-1])
        line = line or _line_of(leaf, text)
        if leaf == "[key]":
            name = str(item["loc"][-2])
            line = _line_of(name, text) or line
            problems.append(_bad_name(str(item["loc"][0]), name))
        elif item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(leaf, _keys(item["loc"]), 1, 0.4)
            problems.append(f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        else:
            found = f", found {item['input']!r}"
            problems.append(f"{key}: {item['msg'][0].lower()}{item['msg'][1:]}{found}")
    return OctoError(
        "bad cluster profile: " + "\n  ".join(problems),
        where=f"{path}{line}",
        hint="the keys are described in docs/slurm.md",
    )


def _bad_name(section: str, name: str) -> str:
    if section != "stages":
        return (
            f"{section}: {name!r} is no name of {'a variable' if section == 'environment' else 'an option'}"
        )
    stages = get_args(_STAGE)
    near = difflib.get_close_matches(name, stages, 1, 0.4)
    return f"stages: unknown stage {name!r}; " + (
        f"did you mean {near[0]!r}?" if near else f"there are {', '.join(stages)}"
    )


def _keys(place: tuple[Any, ...]) -> list[str]:
    sections: dict[str, type[Section]] = {"stages": Resources, "container": Container}
    section = sections.get(str(place[0]), Profile) if len(place) > 1 else Profile
    return list(section.model_fields)


def _line_of(key: str, text: str) -> str:
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(rf"\s*{re.escape(key)}\s*:", line):
            return f":{number}"
    return ""
