"""Comparison of runs and of exports, to the last bit."""

import hashlib
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.support.kill_driver import digests
from benchmarks.support.tensor_digests import tensor_digests
from megatron_octo.checkpoint import directory as layout

# Fields of a step's record that depend on the machine or on the attempt.
_TIMES = {"step_s", "tokens_per_s", "tflops_per_gpu", "mfu", "memory_gib", "data_s", "attempt", "eta_s"}
# Files of an export that later code may write differently, with the reason.
MAY_DIFFER = {
    "conversion.json": "digests and times of the input, description of the job",
    "README.md": "text of the model card",
    "tokenizer_config.json": "names of the special tokens",
    "special_tokens_map.json": "names of the special tokens",
    "generation_config.json": "token at which generation ends",
}


class Verdict:
    """The list of comparisons, printed as they are made."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def note(self, name: str, problem: str = "", detail: str = "") -> None:
        """Print a comparison; a problem makes the exit code 1."""
        print(
            f"{'DIFFERS' if problem else 'ok':8} {name}{': ' if problem or detail else ''}{problem or detail}",
            flush=True,
        )
        if problem:
            self.failed.append(name)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Turn an exception of a part into a problem of it."""
        try:
            yield
        except Exception as error:
            self.note(name, f"{type(error).__name__}: {error}")


def records(run: Path) -> dict[int, dict[str, Any]]:
    """Return the last record of every step, without times."""
    lines = list(_objects(run / "metrics.jsonl"))
    return {line["step"]: {k: v for k, v in line.items() if k not in _TIMES} for line in lines}


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of JSON lines; other lines are passed over."""
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        with suppress(ValueError, RecursionError):
            value = json.loads(line)
            if isinstance(value, dict) and isinstance(value.get("step"), int):
                yield value


def tensors(run: Path, step: int) -> dict[str, str]:
    """Return the digest of every tensor of a checkpoint, by file and name."""
    return tensors_of(run / layout.CHECKPOINTS / layout.step_name(step))


def tensors_of(folder: Path) -> dict[str, str]:
    """Return the digest of every tensor below a directory: of safetensors by name, of torch's zip files by entry."""
    paths = sorted(folder.rglob("*.safetensors"))
    found = {f"{path.name}/{name}": value for path in paths for name, value in tensor_digests(path).items()}
    for path in sorted(folder.rglob("*.pt")):
        with zipfile.ZipFile(path) as file:
            for name in file.namelist():
                if "/data/" in name:
                    found[f"{path.relative_to(folder)}/{name}"] = hashlib.sha256(file.read(name)).hexdigest()
    return found


def run_differences(one: Path, other: Path, last: int) -> str:
    """Return the differences between two runs that ended at step ``last`` as a sentence; empty: none."""
    mine, its = records(one), records(other)
    problems = []
    # A later version may add fields; the common ones must agree.
    for step in range(1, last + 1):
        a, b = mine.get(step), its.get(step)
        if a is None or b is None:
            problems.append(f"step {step} has no record in one of them")
        elif wrong := [key for key in a.keys() & b.keys() if a[key] != b[key]]:
            problems.append(f"step {step}: {', '.join(f'{key} {a[key]} and {b[key]}' for key in wrong)}")
    a_tensors, b_tensors = tensors(one, last), tensors(other, last)
    if not a_tensors:
        problems.append("no tensors in the last checkpoint")
    wrong = [key for key in a_tensors.keys() | b_tensors.keys() if a_tensors.get(key) != b_tensors.get(key)]
    return "; ".join(problems[:3] + ([f"{len(wrong)} tensors, the first {wrong[0]}"] if wrong else []))


def _same_manifest(one: Path, other: Path) -> bool:
    """Return whether two manifests agree in all that training and conversion read: not in provenance and own digest."""
    if one.name != "manifest.json" or not (one.exists() and other.exists()):
        return False
    trees = [json.loads(path.read_bytes()) for path in (one, other)]
    mine, its = ({key: value for key, value in tree.items() if key not in ("provenance", "digest")} for tree in trees)
    return bool(mine == its)


def export_differences(one: Path, other: Path) -> tuple[str, str]:
    """Return the files of two exports that differ and may not, and those that may."""
    mine, its = digests([one], one), digests([other], other)
    wrong = [name for name in sorted(mine.keys() | its.keys()) if mine.get(name) != its.get(name)]
    allowed = [name for name in wrong if Path(name).name in MAY_DIFFER or _same_manifest(one / name, other / name)]
    return ", ".join(name for name in wrong if name not in allowed), ", ".join(allowed)
