"""``commits query``: commits with one edited file, by SQL over tables in the shape of BigQuery's ``github_repos``.

DuckDB runs in this process, Spark where a lake is, BigQuery in its own place; --print shows the statements. The rows
have no contents: ``commits scrape`` fetches them by the blob ids that the rows carry.
"""

import argparse
import contextlib
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from megatron_octo.commits.query import bigquery, engines
from megatron_octo.commits.query.texts import STAGES, TABLES, script, statement
from megatron_octo.commits.rows import FolderWriter, Row
from megatron_octo.commits.rows.arguments import cores
from megatron_octo.commits.rows.job import Job
from megatron_octo.commits.rows.reading import manifest_of
from megatron_octo.commits.rows.row import join_names, split_names
from megatron_octo.commits.rows.tally import said
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_json, read_json, write_json

Batches = tuple[Iterator[Any], list[dict[str, Any]]]  # of pyarrow, and identities of what they come from
ENGINES = ("duckdb", "spark", "bigquery")
CONFLICT = "licence_conflict"


def add_parser(parsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's options."""
    parser = parsers.add_parser("query", help="commits from tables by SQL", description=__doc__)
    add = parser.add_argument
    add("--engine", choices=ENGINES, default="duckdb", help="which runs the statements (default: %(default)s)")
    for table in TABLES:
        add(f"--{table}", metavar="PATTERN", help=f"parquet files of the table {table}; ** for folders")
    add("--output", metavar="OUT", help="a folder, of parquet; or a file: .parquet, .jsonl, or packed .jsonl")
    text = "show the statements in the engine's dialect, and do nothing else"
    add("--print", action="store_true", dest="show", help=text)
    text = "a commit whose repositories have several licences: keep it with all of them, or drop it (default: keep)"
    add("--conflict", choices=["keep", "drop"], default="keep", help=text)
    add("--memory", default="2GB", metavar="M", help="of DuckDB, or of Spark's driver (default: %(default)s)")
    add("--threads", type=int, default=cores(), metavar="N", help="of DuckDB (default: %(default)s)")
    add("--master", metavar="URL", help="of Spark (default: the environment's, else this machine)")
    add("--data-set", metavar="PROJECT.NAME", help="of BigQuery, for the stages' tables")
    add("--keep-tables", action="store_true", help="leave the stages' tables in OUT.query")


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    if arguments.engine == "bigquery" and not arguments.data_set:
        raise OctoError("--engine bigquery needs --data-set PROJECT.NAME", where="command line")
    if arguments.show:
        print(_script(arguments), end="")
        return 0
    if not arguments.output:
        raise OctoError("no --output", where="command line", hint="name a folder or a file, or give --print")
    if arguments.threads < 1:
        raise OctoError(f"--threads {arguments.threads}: at least 1", where="command line")
    output = Path(arguments.output)
    statements = [statement(stage, "bigquery") for stage in STAGES]
    counts: dict[str, int] = {}

    def say(stage: str, rows: int) -> None:
        counts[stage] = rows
        print(f"query: {stage}: {rows:,} rows", file=sys.stderr, flush=True)

    settings = {"conflict": arguments.conflict, "statements": digest_json(statements)}
    work = output.with_name(f"{output.name}.query")
    job = Job("query", settings)
    if output.exists():
        if not _is_complete(output, job, arguments):
            raise OctoError("the output exists already", where=output, hint="remove it or choose another name")
        print(f"query: {output} is complete already", file=sys.stderr)
        return 0
    with _batches(arguments, work, say) as (batches, inputs), FolderWriter(output, job, inputs=inputs) as writer:
        for row in rows_of(batches, drop_conflicts=arguments.conflict == "drop"):
            writer.write(row)
        writer.facts["stages"] = counts
    if not arguments.keep_tables:
        shutil.rmtree(work, ignore_errors=True)
    print(said(read_json(manifest_of(output)), output))
    return 0


def _is_complete(output: Path, job: Job, arguments: argparse.Namespace) -> bool:
    """Return whether an output is there that was made of the same tables by the same statements."""
    if arguments.engine == "bigquery" or not manifest_of(output).is_file():
        return False
    manifest = read_json(manifest_of(output))
    wanted = _sources(arguments).identity()
    return isinstance(manifest, dict) and (manifest.get("settings"), manifest.get("inputs")) == (job.settings, wanted)


def _sources(arguments: argparse.Namespace) -> engines.Sources:
    patterns = {table: getattr(arguments, table) for table in TABLES}
    if missing := [f"--{table}" for table, pattern in patterns.items() if not pattern]:
        raise OctoError(f"no {' and '.join(missing)}", where="command line", hint="name their parquet files")
    return engines.Sources.find(patterns)


def _script(arguments: argparse.Namespace) -> str:
    if arguments.engine == "bigquery":
        return script(arguments.data_set)
    return "".join(f"-- {stage}\n{statement(stage, arguments.engine)};\n\n" for stage in STAGES)


@contextlib.contextmanager
def _batches(
    arguments: argparse.Namespace, work: Path, say: Any
) -> Iterator[tuple[Iterator[Any], list[dict[str, Any]]]]:
    """Run the engine; gives its batches and the identities of what they come from."""
    if arguments.engine == "bigquery":
        yield bigquery.run_bigquery(arguments.data_set, say), [{"path": arguments.data_set, "identity": "", "bytes": 0}]
        return
    sources = _sources(arguments)
    inputs = sources.identity()
    _prepare(work, digest_json([arguments.engine, inputs, [statement(stage, "bigquery") for stage in STAGES]]))
    if arguments.engine == "duckdb":
        run = engines.run_duckdb(sources, work, memory=arguments.memory, threads=arguments.threads, say=say)
    else:
        run = engines.run_spark(sources, work, master=arguments.master, memory=arguments.memory, say=say)
    with run as batches:
        yield batches, inputs


def _prepare(work: Path, job: str) -> None:
    """Make the folder of the stages' tables; those of another job go."""
    mark = work / "job.json"
    with contextlib.suppress(OctoError, OSError):
        if read_json(mark) == job:
            return
    if work.exists() and any(work.iterdir()) and not mark.exists():
        raise OctoError("not a folder of stages' tables", where=work, hint="remove it or choose another output")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_json(mark, job)


def rows_of(batches: Iterator[Any], *, drop_conflicts: bool = False) -> Iterator[Row]:
    """Make rows of batches with the columns of :data:`texts.COLUMNS`."""
    for batch in batches:
        for values in batch.to_pylist():
            row = Row(
                values["commit"],
                old_file=values["old_file"],
                new_file=values["new_file"],
                subject=values["subject"],
                message=values["message"],
                license=values["license"],
                repos=join_names(split_names(values["repos"])),
                old_blob=values["old_blob"],
                new_blob=values["new_blob"],
                author=person(values["author_name"], values["author_email"]),
                committer=person(values["committer_name"], values["committer_email"]),
                date=iso_date(values["time_sec"], values["tz_offset"]),
            )
            if drop_conflicts and "," in values["license"]:
                row.mark(CONFLICT, values["license"])
            yield row


def person(name: str | None, address: str | None) -> str | None:
    """Return ``Name <address>``; None if neither is known."""
    return f"{name or ''} <{address or ''}>" if name or address else None


def iso_date(seconds: int | None, offset: int | None) -> str | None:
    """Return ISO 8601 of seconds since 1970 and minutes east of Greenwich; None if it cannot be told."""
    if seconds is None:
        return None
    try:
        zone = timezone(timedelta(minutes=offset or 0))
        return datetime.fromtimestamp(seconds, UTC).astimezone(zone).isoformat()
    except (ValueError, OverflowError, OSError):
        return None
