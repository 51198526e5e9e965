"""``commits mix``: one data set of pairs from several sources, by weights and caps, shuffled.

Sources are files of pairs, or of commits, which become pairs by a template. The rows and their order follow from the
contents of the sources and the seed alone. Memory: about 120 bytes a row of the sources, and 0.5 GB for each process.
"""

import argparse
import functools
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_octo.commits.rows import Job, Task, input_files, run_tasks
from megatron_octo.commits.rows.arguments import add_common
from megatron_octo.commits.rows.job import known_inputs
from megatron_octo.commits.rows.progress import Meter
from megatron_octo.commits.sources.commit_pairs import settings_of
from megatron_octo.commits.sources.mix_plan import Plan, Scan, make_plan
from megatron_octo.commits.sources.mix_recipe import MixRecipe, make_recipe, parse_sources, read_recipe
from megatron_octo.commits.sources.mix_rows import PART, Part, Reading, Spilling, scan, spill
from megatron_octo.commits.sources.pair import COLUMNS
from megatron_octo.commits.sources.stage import open_inputs
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import read_json, write_json
from megatron_octo.common.leases import flock
from megatron_octo.data.preprocessing.sources import Input, piece_size, pieces
from megatron_octo.data.preprocessing.workers import ordered_map

_DONE = "done.json"


def add_parser(parsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's options."""
    parser = parsers.add_parser("mix", help="one data set from several sources", description=__doc__)
    add = parser.add_argument
    add("recipe", nargs="?", type=Path, metavar="RECIPE.yaml", help="sources and the keys below; see docs/commits.md")
    text = "a source in place of a recipe's; a weight is how often its rows appear, a cap the most distinct ones"
    add("--source", action="append", default=[], metavar="NAME=PATH[:WEIGHT][:CAP]", help=text)
    add_common(parser, inputs=False)
    text = "rows of the mixture; weights are shares of it then (default: what weights and caps give)"
    add("--total", type=int, metavar="N", help=text)
    add("--seed", type=int, metavar="N", help="of the draw and of the order (default: 42)")
    text = "languages that stay, as python,c++; rows of which none is known stay, too"
    add("--languages", metavar="A,B", help=text)
    add("--need-language", action="store_true", default=None, help="drop rows of which no language is known")
    add("--language-cap", type=int, metavar="N", help="most distinct rows of each language")
    text = "keep one of the rows that are equal in these texts, that of the first source (default: none)"
    add("--dedup", choices=["none", "inputs", "pairs"], help=text)
    add("--repeat", action="store_true", default=None, help="repeat rows where a source has too few for the total")
    add("--preprocess", metavar="PREFIX", help="tokenise the mixture, too, into PREFIX.bin, .idx and .json")
    add("--tokenizer", metavar="FILE", help="of --preprocess: tokenizer.json, or a .model of sentencepiece")
    add("--format", default="finetune", metavar="NAME", help="of --preprocess (default: %(default)s)")
    add("--allow-special", action="store_true", help="of --preprocess: read spelled control tokens as tokens")


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    if (arguments.preprocess is None) != (arguments.tokenizer is None):
        raise OctoError("--preprocess and --tokenizer go together", where="command line")
    recipe = _recipe(arguments)
    started = time.monotonic()
    found = mix(recipe, arguments.output, arguments.jobs)
    seconds = time.monotonic() - started
    for name, counts in found["notes"][0].items():
        print(f"{name}: " + ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in counts.items()))
    print(f"{arguments.output}: {found['rows']:,} rows of {found['rows_in']:,} read; {seconds:.1f} s")
    if arguments.preprocess is not None:
        from megatron_octo.data.preprocessing.encode import EncodeOptions
        from megatron_octo.data.preprocessing.pipeline import preprocess

        options = EncodeOptions(arguments.tokenizer, arguments.format, control_text=arguments.allow_special)
        files = [str(path) for path in input_files([arguments.output])]
        print(preprocess(files, arguments.preprocess, options, arguments.jobs)[1])
    return 0


def _recipe(arguments: argparse.Namespace) -> MixRecipe:
    names = ("total", "seed", "need_language", "language_cap", "dedup", "repeat")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if arguments.languages:
        given["languages"] = [each.strip() for each in arguments.languages.split(",")]
    if (arguments.recipe is None) == (not arguments.source):
        raise OctoError("either a recipe or --source is wanted", where="command line")
    if arguments.recipe is not None:
        return read_recipe(arguments.recipe, given)
    return make_recipe({"sources": parse_sources(arguments.source)} | given, "command line", overridden=given)


def mix(recipe: MixRecipe, output: str | Path, jobs: int) -> dict[str, Any]:
    """Make a mixture; returns its manifest, whose first note counts the rows by source.

    A kill costs the passes over the sources, or of what comes behind them only the parts that were being written.

    Raises:
        OctoError: a bad row or source, too few rows, or another output is there.
    """
    output = Path(output)
    opened = [open_inputs(each.paths) for each in recipe.sources.values()]
    commits = [settings_of(each.format, recipe.seed, name) for name, each in recipe.sources.items()]
    values = recipe.model_dump() | {"formats": [asdict(each) for each in commits]}
    inputs = [each for sources in opened for each in known_inputs(sources)]
    job = Job("mix", values, False, COLUMNS)
    ledger = job.ledger(output, inputs)
    folder = output.with_name(f"{output.name}.mix")
    if ledger.is_complete():
        _remove(folder)
        return run_tasks(job, [], output, inputs=inputs, total=0, jobs=jobs)
    folder.mkdir(parents=True, exist_ok=True)
    handle = flock(folder, OctoError("another process makes the same output", where=output, hint="wait for it"))
    try:
        done = _passes(recipe, opened, commits, folder, ledger.job, jobs)
        count = max(-(-done["bytes"] // PART), 1)
        tasks = (
            Task(
                {"part": number, "parts": count},
                Part(folder, done["pieces"], number, count, done["read"], (done["counts"],)),
            )
            for number in range(count)
        )
        found = run_tasks(job, tasks, output, inputs=inputs, total=count, jobs=jobs)
        _remove(folder)
    except Exception:
        if not (folder / _DONE).is_file():
            _remove(folder)  # nothing in it would be taken up
        raise
    finally:
        os.close(handle)
    return found


def _remove(folder: Path) -> None:
    """Remove the folder of chosen rows; a kill on the way leaves one that is not taken for whole."""
    (folder / _DONE).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _passes(
    recipe: MixRecipe, opened: list[list[Input]], commits: list[Any], folder: Path, job: str, jobs: int
) -> dict[str, Any]:
    """Read the sources twice: for the plan, and to put the chosen rows into the folder; once for all starts."""
    path = folder / _DONE
    if path.is_file() and (done := read_json(path)).get("job") == job:
        return dict(done)
    path.unlink(missing_ok=True)  # first: it says that the others are whole
    for old in folder.iterdir():
        old.unlink()
    size = piece_size([each for sources in opened for each in sources])

    def readings() -> Iterable[Reading]:
        number = 0
        for place, (name, each) in enumerate(recipe.sources.items()):
            for piece in pieces(opened[place], size):
                yield Reading(
                    number, place, name, piece, commits[place], recipe.languages_of(each), recipe.need_language,
                    recipe.dedup, recipe.seed,
                )  # fmt: skip
                number += 1

    total = 2 * sum(each.size for sources in opened for each in sources)
    with Meter("mix: sources", total) as meter:
        scans, plan = _plan(recipe, readings(), meter, jobs)
        written = 0
        spills = (Spilling(each, scans[each.number].key, plan.copies[each.number], folder) for each in readings())
        for spilled in ordered_map(functools.partial(_same, spill), spills, jobs):
            written += spilled
            meter.add(total // 2 // len(scans), 0)
    done = {"job": job, "bytes": written, "pieces": len(scans), "read": sum(len(each.key) for each in scans)}
    done["counts"] = plan.counts
    write_json(path, done)
    return done


def _plan(recipe: MixRecipe, readings: Iterable[Reading], meter: Meter, jobs: int) -> tuple[list[Scan], Plan]:
    shares: list[int] = []

    def noted() -> Iterable[Reading]:
        for each in readings:
            shares.append(each.piece.disk)
            yield each

    scans: list[Scan] = []
    for found in ordered_map(functools.partial(_same, scan), noted(), jobs):
        meter.add(shares[len(scans)], len(found.key))
        scans.append(found)
    return scans, make_plan(recipe, scans)


def _same[T](value: T) -> T:
    return value
