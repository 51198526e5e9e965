"""What the benchmarks that train have in common: their arguments, their data, the command, and what a run leaves."""

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.corpus import write_random_corpus
from megatron_octo.checkpoint import directory as layout
from megatron_octo.checkpoint.digest import FileRecord
from megatron_octo.recipe.schema import Recipe
from megatron_octo.runfiles.run_directory import read_metrics


def parser_of(text: str | None, overrides: str | None = None) -> argparse.ArgumentParser:
    """Arguments of a benchmark that trains a recipe; ``overrides`` is their help."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help=overrides)
    parser.add_argument("--nproc", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON lines are appended here")
    return parser


def corpus_for(
    prefix: Path, recipe: Recipe, steps: int, mean_length: int = 1024, learnable: bool = False
) -> Path:
    """Random documents for so many steps, and one more."""
    tokens = int(1.1 * (steps + 1) * recipe.batch.global_size * recipe.data.seq_length)
    return write_random_corpus(prefix, tokens, recipe.model.vocab_size, mean_length, learnable=learnable)


def train_command(recipe: str, nproc: int, words: list[str]) -> list[str]:
    return [sys.executable, "-m", "megatron_octo.train", recipe, "--nproc", str(nproc), *words]


Outcome = tuple[dict[int, Any], dict[str, FileRecord]]


def outcome(run: Path, step: int) -> Outcome:
    """Loss and gradient norm by step, as they were written last; the digests of a checkpoint's files."""
    curve = {record["step"]: (record["loss"], record["grad_norm"]) for record in read_metrics(run)}
    return curve, dict(layout.read_manifest(run / layout.CHECKPOINTS / layout.step_name(step)).files)


def bitwise(one: Outcome, other: Outcome) -> dict[str, Any]:
    """What differs between the outcomes of two runs of the same steps."""
    (curve, files), (other_curve, other_files) = one, other
    return {
        "steps_that_differ": [step for step in curve if curve[step] != other_curve.get(step)],
        "files": len(files),
        "files_that_differ": [name for name in files if files[name] != other_files.get(name)],
        "bit_equal": one == other,
    }
