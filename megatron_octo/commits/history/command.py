"""``commits history REPO...``: rows of the commits of git repositories, with the contents before and after.

A commit becomes a row if it edits exactly one file in place; files that it adds, removes or renames do not count
(--alone is stricter). Merges, links and submodules are left out. Contents are read by blob id and hashed again.
"""

import argparse
import sys
from pathlib import Path

from megatron_octo.commits.rows.arguments import add_common
from megatron_octo.common.errors import OctoError


def add_parser(parsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's options."""
    from megatron_octo.commits.history.remote import cache_root

    parser = parsers.add_parser("history", help="rows of the commits of git repositories", description=__doc__)
    add = parser.add_argument
    text = "a path, a URL, or owner/name=PATH for another name in the rows"
    add("repositories", nargs="*", metavar="REPO", help=text)
    add("--list", metavar="FILE", help="repositories, one a line; # begins a comment line")
    add_common(parser, inputs=False)
    add("--rev", action="append", metavar="REV", help="where to begin (default: HEAD; may be given several times)")
    add("--all", action="store_true", help="begin at all branches and tags")
    add("--max-commits", type=int, metavar="N", help="the newest N commits of each repository, without merges")
    add("--alone", action="store_true", help="the commit touches nothing but this file")
    add("--creations", action="store_true", help="a file that is added counts, too; its contents before are null")
    add("--roots", action="store_true", help="with --creations: first commits count")
    text = "larger files are dropped as too_large (default: 1 MiB, what BigQuery's table of contents holds)"
    add("--max-bytes", type=int, default=1 << 20, metavar="N", help=text)
    add("--license", metavar="ID", help="licence of all rows (default: by each repository's licence file)")
    add("--on-error", choices=["stop", "skip"], default="stop", help="at a repository that cannot be read")
    add("--cache", type=Path, default=None, metavar="DIR", help=f"clones of remote ones (default: {cache_root()})")
    add("--blobless", action="store_true", help="clone without contents and fetch those that are wanted by their ids")
    add("--no-refresh", action="store_true", help="take clones of the cache as they are")
    add("--timeout", type=float, default=3600.0, metavar="S", help="seconds of a clone (default: %(default)g)")


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit code: 1 if repositories were left out."""
    from megatron_octo.commits.history.extract import Wanted
    from megatron_octo.commits.history.remote import cache_root
    from megatron_octo.commits.history.repositories import Clones, parse_repository
    from megatron_octo.commits.history.stage import Choice, read_histories
    from megatron_octo.commits.rows.tally import said

    names = [*arguments.repositories, *(_listed(arguments.list) if arguments.list else [])]
    if not names:
        raise OctoError("no repository", where="command line", hint="name some, or a file of them with --list")
    for option, value in (("--max-commits", arguments.max_commits), ("--max-bytes", arguments.max_bytes)):
        if value is not None and value < 1:
            raise OctoError(f"{option} {value}: at least 1 is needed", where="command line")
    if arguments.roots and not arguments.creations:
        raise OctoError("--roots needs --creations: a first commit only adds files", where="command line")
    if any(rev.startswith("-") for rev in arguments.rev or ()):
        raise OctoError("a revision does not begin with a hyphen", where="--rev")
    repositories = [parse_repository(name) for name in dict.fromkeys(names)]
    manifest, failed = read_histories(
        repositories,
        arguments.output,
        Wanted(arguments.alone, arguments.creations, arguments.roots, arguments.max_bytes),
        choice=Choice((*(arguments.rev or ()), *(["--all"] * arguments.all)) or ("HEAD",), arguments.max_commits),
        clones=Clones(arguments.cache or cache_root(), arguments.blobless, not arguments.no_refresh, arguments.timeout),
        licence=arguments.license,
        jobs=arguments.jobs,
        skip=arguments.on_error == "skip",
        leave_out=arguments.drop,
    )
    for name, why in failed:
        print(f"left out: {name}: {why}", file=sys.stderr)
    commits = sum(int(each["commits"]) for each in manifest["inputs"])
    print(f"{commits:,} commits of {len(repositories) - len(failed)} repositories; {said(manifest, arguments.output)}")
    return 1 if failed else 0


def _listed(path: str) -> list[str]:
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
