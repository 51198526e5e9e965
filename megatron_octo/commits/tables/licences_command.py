"""``commits licences``: the licence of each row by its repositories and the SPDX header of its file."""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from megatron_octo.commits.rows import Row, each_kept, run_stage
from megatron_octo.commits.rows.arguments import add_common
from megatron_octo.commits.rows.tally import said
from megatron_octo.commits.tables.licences import LicenceRule, accepted_licences, plain_id, repository_licences
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_file
from megatron_octo.data.preprocessing.recognize import check_rows
from megatron_octo.data.preprocessing.sources import open_input, pieces


@dataclass(frozen=True)
class Settings:
    """Of :class:`LicenceRule`; the table of repositories as a file with its digest."""

    accepted: tuple[str, ...]
    keep_unknown: bool = False
    keep_conflict: bool = False
    repositories: str | None = None
    digest: str | None = None


def check_licences(rows: Iterable[Row], settings: Settings) -> Iterator[Row]:
    """Apply the rule to all rows that are not dropped."""
    table = read_repositories(settings.repositories) if settings.repositories else {}
    rule = LicenceRule(frozenset(settings.accepted), table, settings.keep_unknown, settings.keep_conflict)
    return each_kept(rule.apply, rows)


def read_repositories(path: str | Path) -> dict[str, str]:
    """Read rows ``{"repos": "owner/name,...", "license": "mit"}`` of jsonl, plain or packed.

    ``repo_name`` and ``repo`` are taken for ``repos``, too.

    Raises:
        OctoError: a row is another one; file and line are named.
    """

    def rows() -> Iterator[tuple[str, str]]:
        source = open_input(str(path))
        check_rows(source.path, source.packing)
        for piece in pieces([source], 1 << 24):
            for lines in piece.rows([]):
                for place, line in lines:
                    try:
                        row = orjson.loads(line)  # type: ignore[arg-type]
                        yield row.get("repos") or row.get("repo_name") or row["repo"], row["license"].lower()
                    except (ValueError, KeyError, AttributeError) as error:
                        what = f"not a row of repos and license: {type(error).__name__}: {error}"
                        raise OctoError(what, where=lines.where(place)) from None

    return repository_licences(rows())


def add_parser(parsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's options."""
    parser = parsers.add_parser("licences", help="set and check the licence", description=__doc__)
    add_common(parser)
    parser.add_argument("--accept", nargs="+", metavar="ID", help="SPDX ids (default: CommitPack's twelve)")
    text = "jsonl with the columns repos and license: licences of repositories, before those of the rows"
    parser.add_argument("--repositories", metavar="FILE", help=text)
    parser.add_argument("--keep-unknown", action="store_true", help="keep rows whose licence is not known")
    text = "keep rows if one of several licences of their repositories is accepted (default: all must be)"
    parser.add_argument("--keep-conflict", action="store_true", help=text)


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    accepted = frozenset(map(plain_id, arguments.accept)) if arguments.accept else accepted_licences()
    digest = None
    if arguments.repositories:
        read_repositories(arguments.repositories)  # a bad line fails before the work
        digest = digest_file(arguments.repositories)
    settings = Settings(
        tuple(sorted(accepted)), arguments.keep_unknown, arguments.keep_conflict, arguments.repositories, digest
    )
    found = run_stage(
        "licences",
        arguments.inputs,
        arguments.output,
        check_licences,
        settings=settings,
        jobs=arguments.jobs,
        signals={"spdx": "text"},
        leave_out=arguments.drop,
    )
    print(said(found, arguments.output))
    return 0
