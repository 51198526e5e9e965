"""Layout of a checkpoint and of the folder that holds a run's checkpoints.

    checkpoints/
      latest                      name of the newest one, replaced atomically
      step-00000020/
        manifest.json             contents: shapes, fragments, digests, data position
        main-00000.safetensors            fp32 weights of a bf16 run, one file per rank
        weights-tp00-pp00.safetensors     of an fp32 run, or weights alone: one file per tensor x pipeline rank
        optimizer-00000.safetensors       Adam state, one file per rank

Files are written into a hidden directory which is renamed last: a checkpoint is complete or absent.
docs/checkpoints.md describes every field.
"""

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from megatron_octo.architectures import checked_model
from megatron_octo.checkpoint.digest import FileRecord, differing
from megatron_octo.common.dtypes import SAFETENSORS
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import atomic_write, digest_json, read_json, remove_any, remove_leftovers, write_json
from megatron_octo.config.model import LoraConfig, ModelConfig

FORMAT = 2
_KNOWN = (1, FORMAT)  # 1: bf16 weights are stored beside the fp32 ones
MANIFEST = "manifest.json"
LATEST = "latest"
CHECKPOINTS = "checkpoints"
WEIGHTS = "weights"  # beside it: checkpoints of weights alone, for conversion and evaluation
Extent = Annotated[int, Field(ge=0, le=1 << 50)]
DType = Annotated[str, Field(pattern=f"^({'|'.join(SAFETENSORS.values())})$")]
_STEP = re.compile(r"^step-(\d{8})$")


@dataclass(frozen=True)
class Fragment:
    """A stored piece of a tensor: a box of it, or a range of that box laid flat (row-major)."""

    file: str
    key: str
    offset: tuple[Extent, ...]  # corner of the box in the whole tensor
    shape: tuple[Extent, ...]  # extent of the box
    flat: tuple[Extent, Extent] | None = None  # [start, end) of the flattened box


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of the whole model and its fragments."""

    shape: tuple[Extent, ...]
    dtype: DType  # safetensors' name: F32, BF16, ...; fragments that are stored finer are rounded when they are read
    fragments: tuple[Fragment, ...]


Entries = dict[str, dict[str, TensorEntry]]  # kind -> tensor -> its place


@dataclass(frozen=True)
class Manifest:
    """The contents of a checkpoint.

    ``tensors`` maps kind -> name -> entry; kinds are ``weights`` and, in a checkpoint that training can
    resume from, ``main`` (fp32 weights of a bf16 run), ``exp_avg`` and ``exp_avg_sq``. A run writes no
    weights beside ``main``: their fragments are those of ``main`` then.
    """

    model: ModelConfig
    step: int
    precision: str
    tokenizer: str | None  # digest of tokenizer.json
    files: dict[str, FileRecord]
    tensors: Entries
    layout: dict[str, int] = field(default_factory=dict)  # sizes: tensor, pipeline, data
    state: dict[str, Any] = field(default_factory=dict)  # everything else that training resumes from
    provenance: dict[str, Any] = field(default_factory=dict)
    lora: LoraConfig | None = None  # the weights are adapters beside those that state.base names

    @property
    def weights_are_rounded(self) -> bool:
        """Return whether the weights are rounded from the stored fp32 ones when they are read."""
        weights, main = self.tensors["weights"], self.tensors.get("main", {})
        return bool(weights) and all(
            name in main and entry.fragments == main[name].fragments for name, entry in weights.items()
        )

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON values."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields["model"] = self.model.model_dump()
        fields["lora"] = self.lora.model_dump(mode="json") if self.lora else None
        fields["tensors"] = {
            kind: {name: dataclasses.asdict(entry) for name, entry in entries.items()}
            for kind, entries in self.tensors.items()
        }
        return {"format": FORMAT, **fields}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "Manifest":
        """Build a manifest from JSON values."""
        tree = dict(tree)
        tree.pop("format")
        tree["model"] = checked_model(tree["model"])
        lora = tree.get("lora")  # absent in manifests of earlier versions
        tree["lora"] = LoraConfig.model_validate(lora) if lora else None
        if unknown := tree.keys() - {each.name for each in dataclasses.fields(cls)}:
            raise ValueError(f"unknown key {min(unknown)!r}")
        return _MANIFEST.validate_python(tree)


_ENTRIES = TypeAdapter(Entries)
_MANIFEST = TypeAdapter(Manifest)


def entries_from_json(tree: Any) -> Entries:
    """Build tensors' entries, kind -> name -> entry, from JSON values.

    Raises:
        ValueError: a value is of a wrong type or out of range.
    """
    return _ENTRIES.validate_python(tree)


def step_name(step: int) -> str:
    """Return the directory name of a step's checkpoint."""
    return f"step-{step:08d}"


def step_of(path: Path) -> int:
    """Return the step of a checkpoint from its name."""
    return int(path.name.removeprefix("step-"))


def read_manifest(directory: str | Path) -> Manifest:
    """Read a checkpoint's manifest.

    Raises:
        OctoError: there is none, it is damaged, or of a format unknown to this version.
    """
    path = Path(directory) / MANIFEST
    tree = read_json(path)
    if not isinstance(tree, dict) or tree.get("format") not in _KNOWN:
        raise OctoError(
            f"unknown checkpoint format, expected one up to {FORMAT}",
            where=path,
            hint="made by another version?",
        )
    # The manifest holds the digests of all other files and, last, its own.
    if tree.pop("digest", None) != digest_json(tree):
        raise OctoError(f"{MANIFEST} has changed since it was written (digest differs)", where=path)
    try:
        return Manifest.from_json(tree)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise OctoError(f"broken checkpoint manifest: {error}", where=path) from None


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write a checkpoint's manifest with its own digest."""
    tree = manifest.to_json()
    write_json(directory / MANIFEST, {**tree, "digest": digest_json(tree)})


def check_sizes(directory: Path, manifest: Manifest, names: Iterable[str]) -> dict[str, str]:
    """Compare sizes of some of a checkpoint's files with its manifest; returns file -> problem."""
    problems = {}
    for name in names:
        size, path = manifest.files[name]["bytes"], directory / name
        if not path.is_file():
            problems[name] = f"{name} is missing"
        elif path.stat().st_size != size:
            problems[name] = f"{name} has {path.stat().st_size} bytes, expected {size}"
    return problems


def check_files(directory: Path, manifest: Manifest, names: list[str] | None = None) -> list[str]:
    """Compare sizes and digests of a checkpoint's files with its manifest; returns all problems."""
    names = list(manifest.files) if names is None else names
    problems = check_sizes(directory, manifest, names)
    expected = {directory / name: manifest.files[name]["digest"] for name in names if name not in problems}
    changed = [f"{path.name} has changed since it was written (digest differs)" for path in differing(expected)]
    return [*problems.values(), *changed]


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the committed checkpoints in ``folder``, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if _STEP.match(p.name) and (p / MANIFEST).is_file())


def set_latest(folder: Path, name: str) -> None:
    """Point ``latest`` at a checkpoint."""
    with atomic_write(folder / LATEST, "w") as file:
        file.write(name + "\n")


def candidates(folder: Path) -> list[Path]:
    """Return checkpoints to try, best first: ``latest``, then older ones, newest first, then those beyond it.

    Checkpoints beyond ``latest`` were rolled back from by an operator and are a last resort. Those without a manifest
    are included, so that the caller can report them.
    """
    found = sorted((p for p in folder.glob("step-*") if _STEP.match(p.name) and p.is_dir()), reverse=True)
    pointer = folder / LATEST
    name = pointer.read_text(encoding="utf-8", errors="replace").strip() if pointer.is_file() else ""
    if _STEP.match(name):
        found.sort(key=lambda path: path.name > name)
    return found


def discard(path: Path) -> None:
    """Remove a checkpoint, or a file or link in its place; a kill in the middle leaves nothing that looks like one."""
    doomed = path.with_name(f".{path.name}.removed")
    remove_any(doomed)
    path.rename(doomed)
    remove_any(doomed)


def sweep(folder: Path) -> None:
    """Remove remains of interrupted saves and removals; call only from the process that owns this folder."""
    for path in folder.glob(".step-*"):
        remove_any(path)
    remove_leftovers(folder, LATEST)


def prune(folder: Path, keep: int, step: int, every: int = 0) -> None:
    """Keep the newest ``keep`` checkpoints up to ``step``, and those of steps that are multiples of ``every``.

    Checkpoints beyond ``step``, from which an operator rolled back, are kept.
    """
    past = [path for path in list_checkpoints(folder) if path.name <= step_name(step)]
    for path in past[:-keep]:
        if not every or step_of(path) % every:
            discard(path)
    sweep(folder)


def find_checkpoint(path: str | Path) -> Path:
    """Return the checkpoint that ``path`` names: itself, or the latest of a run or of a folder of checkpoints.

    Raises:
        OctoError: there is none.
    """
    path = Path(path)
    if (path / MANIFEST).is_file():
        return path
    for folder in (path / CHECKPOINTS, path):
        if found := [checkpoint for checkpoint in candidates(folder) if (checkpoint / MANIFEST).is_file()]:
            return found[0]
    raise OctoError(
        "no checkpoint here",
        where=path,
        hint="expected a run, a checkpoint (with manifest.json), or the output of convert from-hf",
    )
