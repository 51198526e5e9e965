"""Profiles of clusters: ``clusters/NAME.yaml``, as a strict and frozen object."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from megatron_octo.common.errors import OctoError
from megatron_octo.common.strict_yaml import explain, key_lines, parse_yaml, read_text
from megatron_octo.config.model import Count, PositiveInt, Section

FOLDER = Path("clusters")

# sbatch --time: minutes, minutes:seconds, hours:minutes:seconds, or with days before.
TIME = r"^(\d+|\d+:\d+|\d+:\d+:\d+|\d+-\d+|\d+-\d+:\d+|\d+-\d+:\d+:\d+)$"
_TIME = Annotated[str, Field(pattern=TIME)]
# In double quotes, so that $USER and $SLURM_JOB_ID become what they are in the job.
_FOLDER = Annotated[str, Field(pattern=r"""^([^"`\\$!]|\$[A-Za-z_][A-Za-z0-9_]*|\$\{[A-Za-z_][A-Za-z0-9_]*\})+$""")]
_VARIABLE = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
_OPTION = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]*$")]
_STAGE = Literal["preprocess", "merge", "train", "convert", "verify", "evaluate"]  # of stages.py; a test compares


class Container(Section):
    """An image that srun starts the tasks in (Pyxis: ``--container-image``)."""

    image: str
    mounts: list[str] = Field(default_factory=list)  # HOST:CONTAINER[:FLAGS]
    options: list[str] = Field(default_factory=list)  # further arguments of srun


class Resources(Section):
    """Resources of one stage; the profile's for keys that are not set."""

    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    cpus_per_task: PositiveInt | None = None
    memory: str | None = None  # sbatch --mem: 64G; 0: all of the node
    time: _TIME | None = None
    gpus_per_node: PositiveInt | None = None  # of stages other than the training, which has the profile's


class Profile(Section):
    """Options of a cluster for sbatch and the tasks. docs/slurm.md describes the keys."""

    multiline = frozenset({"setup"})

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
    scratch: _FOLDER | None = None  # made on the job's nodes, for temporary files and compilers' caches
    setup: list[str] = Field(default_factory=list)  # lines of shell before everything else
    python: str | None = None  # of the tasks; default: the one that submits
    srun: list[str] = Field(default_factory=list)
    sbatch: dict[_OPTION, str | int | bool] = Field(default_factory=dict)  # any other option: name without dashes
    stages: dict[_STAGE, Resources] = Field(default_factory=dict)

    def resources(self, stage: str) -> Resources:
        """Return the resources of a stage; the merge of an array has those of preprocess by default."""
        own = self._own(stage)
        if stage != "merge":
            return own
        return self._own("preprocess").model_copy(update=own.model_dump(exclude_none=True))

    def _own(self, stage: str) -> Resources:
        return next((own for name, own in self.stages.items() if name == stage), Resources())


def find_profile(name: str | None) -> Profile:
    """Read the profile of a name (``clusters/NAME.yaml``) or of a file; without one, use sbatch's defaults.

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
    text = read_text(path)
    tree = parse_yaml(text, path, fractions=False) or {}
    if not isinstance(tree, dict):
        raise OctoError("a cluster profile is a YAML mapping", where=path, hint="docs/slurm.md has an example")
    return check_profile(tree, path, key_lines(text, path))


def check_profile(
    tree: dict[str, Any], where: str | Path = "command line", lines: dict[str, str] | None = None
) -> Profile:
    """Validate a plain mapping as a profile.

    Args:
        tree: the mapping.
        where: the file, named in errors.
        lines: ``FILE:LINE`` of its dotted keys.

    Raises:
        OctoError: a key is unknown or a value is wrong.
    """
    try:
        return Profile.model_validate(tree)
    except ValidationError as error:
        hint = "the keys are described in docs/slurm.md"
        raise explain(error, Profile, "cluster profile", where=where, lines=lines or {}, hint=hint) from None
