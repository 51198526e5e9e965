"""Trainings of a recipe on random documents, through the product's own command, and the comparison of their results."""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.support.corpus import overrides_on, write_random_corpus
from benchmarks.support.machine import keep, machine
from megatron_octo.checkpoint import directory as layout
from megatron_octo.checkpoint.digest import FileRecord
from megatron_octo.recipe.loading import load_recipe
from megatron_octo.recipe.schema import Recipe
from megatron_octo.runfiles.run_directory import read_metrics

NO_WARM_UP = ("schedule.warmup_fraction=null", "schedule.warmup_steps=0")


def parser_of(text: str | None, overrides: str | None = None) -> argparse.ArgumentParser:
    """Return the arguments of a benchmark that trains a recipe; ``overrides`` is their help."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help=overrides)
    parser.add_argument("--nproc", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="file to which JSON lines are appended")
    return parser


def corpus_for(prefix: Path, recipe: Recipe, steps: int, mean_length: int = 1024, learnable: bool = False) -> Path:
    """Write random documents for ``steps`` steps and one more; returns the prefix."""
    tokens = int(1.1 * (steps + 1) * recipe.batch.global_size * recipe.data.seq_length)
    return write_random_corpus(prefix, tokens, recipe.model.vocab_size, mean_length, learnable=learnable)


class Trainings:
    """Trainings of one recipe on the same documents, each in a directory of its own below ``folder``."""

    def __init__(
        self,
        folder: str | Path,
        recipe: str,
        nproc: int,
        overrides: Iterable[str],
        corpus: Path | None = None,
        **documents: Any,
    ) -> None:
        """Take a corpus, or write one with ``documents``: the arguments of ``corpus_for``."""
        self.folder, self.overrides = Path(folder), [*overrides]
        self.corpus = corpus or corpus_for(self.folder / "random", load_recipe(recipe, self.overrides), **documents)
        start = [sys.executable, "-m", "megatron_octo.train", recipe, "--nproc", str(nproc)]
        self._command = [*start, *self.overrides, *overrides_on(self.corpus)]

    def command(self, run: str, *words: str) -> list[str]:
        """Return the command line of a run; ``words`` are overrides that win over all others."""
        return [*self._command, f"run_dir={self.folder / run}", *words]

    def train(self, run: str, *words: str, quiet: bool = False) -> Path:
        """Train to the end; returns the run's directory."""
        subprocess.run(self.command(run, *words), check=True, stdout=subprocess.DEVNULL if quiet else None)
        return self.folder / run


def medians(records: list[dict[str, Any]], *keys: str) -> dict[str, float | None]:
    """Return the median of each key over the records that have a value; None where there is none."""
    values = {key: [record[key] for record in records if record[key] is not None] for key in keys}
    return {key: statistics.median(found) if found else None for key, found in values.items()}


Outcome = tuple[dict[int, Any], dict[str, FileRecord]]


def outcome(run: Path, step: int) -> Outcome:
    """Return loss and gradient norm by step, as they were written last, and the digests of a checkpoint's files."""
    curve = {record["step"]: (record["loss"], record["grad_norm"]) for record in read_metrics(run)}
    return curve, dict(layout.read_manifest(run / layout.CHECKPOINTS / layout.step_name(step)).files)


def bitwise(one: Outcome, other: Outcome) -> dict[str, Any]:
    """Return the differences between the outcomes of two runs of the same steps."""
    (curve, files), (other_curve, other_files) = one, other
    return {
        "steps_that_differ": [step for step in curve if curve[step] != other_curve.get(step)],
        "files": len(files),
        "files_that_differ": [name for name in files if files[name] != other_files.get(name)],
        "bit_equal": one == other,
    }


def publish(output: Path | None, found: dict[str, Any], indent: int | None = 1) -> None:
    """Print a result as JSON, and append it with the machine to ``output``."""
    keep(output, {**found, "machine": machine()})
    print(json.dumps(found, indent=indent))
