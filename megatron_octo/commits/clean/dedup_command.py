"""``commits dedup``: drop rows that are in the data already, by blob ids, by normalised text, and near duplicates.

Of each cluster the row with the smallest commit id stays, whatever the order of the rows, the shards and --jobs. Near
duplicates are edits whose changed lines and subject have a Jaccard similarity of at least --threshold; it is computed
for all candidates, so none is dropped by an estimate.
"""

import argparse
import contextlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from megatron_octo.commits.clean.clusters import KINDS, Decisions, decide
from megatron_octo.commits.clean.keys import Keys, Near, make_keys, places
from megatron_octo.commits.rows import Kind, Row, input_files, run_stage
from megatron_octo.commits.rows.arguments import add_common
from megatron_octo.commits.rows.job import Job, known_inputs
from megatron_octo.commits.rows.reading import open_rows
from megatron_octo.commits.rows.tally import said
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import atomic_write, digest_file

RULES = {"blobs": "duplicate", "text": "duplicate_text", "near": "near_duplicate"}
SIGNALS: dict[str, Kind] = {"dedup_kind": "text", "dedup_cluster": "text", "dedup_similarity": "float"}


@dataclass(frozen=True)
class Verdicts:
    """Where the decisions about a piece's rows lie, and their digest."""

    path: str
    digest: str


def mark_rows(rows: Iterable[Row], verdicts: Verdicts) -> Iterator[Row]:
    """Drop the duplicates of a piece."""
    with np.load(verdicts.path) as stored:
        kinds, clusters, similarities = (stored[name] for name in ("kind", "cluster", "similarity"))
    for row, kind, cluster, similarity in zip(
        rows, kinds.tolist(), clusters.tolist(), similarities.tolist(), strict=True
    ):
        if kind:
            name, kept = KINDS[kind], cluster.decode("utf-8", "surrogatepass")
            row.signals |= {"dedup_kind": name, "dedup_cluster": kept}
            if name == "near":
                row.signals["dedup_similarity"] = round(similarity, 4)
            row.mark(RULES[name], f"of {kept}")
        yield row


def store(decisions: Decisions, keys: list[Keys], folder: Path) -> list[Verdicts]:
    """Write the decisions, a file for each piece."""
    commit = np.concatenate([each.commit for each in keys])
    found = []
    for number, (start, end) in enumerate(places(keys)):
        path = folder / f"verdicts-{number:05d}.npz"
        with atomic_write(path) as file:
            np.savez(
                file,
                kind=decisions.kind[start:end],
                cluster=commit[decisions.kept[start:end]],
                similarity=decisions.similarity[start:end],
            )
        found.append(Verdicts(str(path), digest_file(path)))
    return found


def add_parser(parsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's options."""
    parser = parsers.add_parser("dedup", help="drop duplicates and near duplicates", description=__doc__)
    add_common(parser)
    add, near = parser.add_argument, Near()
    add("--exact-only", action="store_true", help="do not look for near duplicates")
    add("--threshold", type=float, default=near.threshold, metavar="J", help="least similarity (default: %(default)s)")
    add("--permutations", type=int, default=near.permutations, metavar="N", help="of a MinHash (default: %(default)s)")
    add("--bands", type=int, default=near.bands, metavar="N", help="of the permutations (default: %(default)s)")
    add("--seed", type=int, default=near.seed, metavar="N", help="of the permutations (default: %(default)s)")


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    near = None
    if not arguments.exact_only:
        near = Near(arguments.threshold, arguments.permutations, arguments.bands, arguments.seed)
        if not 0 < near.threshold <= 1:
            raise OctoError(f"--threshold {near.threshold}: above 0 and at most 1", where="command line")
        if not 1 <= near.bands <= near.permutations <= 4096:
            raise OctoError("--bands: from 1 to --permutations, which is at most 4096", where="command line")
    output = Path(arguments.output)
    folder = output.with_name(f"{output.name}.keys")
    sources = [open_rows(path) for path in input_files(arguments.inputs)]
    job = Job("dedup", asdict(near) if near else None, arguments.drop)
    verdicts: list[Verdicts] = []
    if not job.ledger(output, known_inputs(sources)).is_complete():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            keys = make_keys(sources, folder, near, arguments.jobs)
        except OctoError:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only where it is empty
            raise
        verdicts = store(decide(keys, near), keys, folder)
    found = run_stage(
        job.name,
        arguments.inputs,
        output,
        mark_rows,
        settings=job.settings,
        local=lambda number: verdicts[number],
        jobs=arguments.jobs,
        signals=SIGNALS,
        leave_out=arguments.drop,
    )
    shutil.rmtree(folder, ignore_errors=True)
    print(said(found, output))
    return 0
