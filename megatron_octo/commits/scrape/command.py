"""``commits scrape``: contents before and after, for rows that carry blob ids (of ``query``), or a commit and a path.

Repositories are asked for blobs by id, many a request; what one lacks is asked of the row's next. Contents are hashed
again and compared with their ids. Rows whose contents cannot be had are dropped with the reason. A start after a kill
or a refusal goes on. Hosts have rules for such downloads: give --contact, and keep --rate low.
"""

import argparse
from pathlib import Path

from megatron_octo import __version__
from megatron_octo.commits.rows.arguments import add_common
from megatron_octo.commits.rows.tally import said
from megatron_octo.commits.scrape.fetch import Options
from megatron_octo.commits.scrape.ledger import TRANSIENT
from megatron_octo.commits.scrape.stage import Manners, scrape_rows
from megatron_octo.common.errors import OctoError

_PROTOCOLS = ("https", "http", "git", "ssh", "file")


def add_parser(parsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's options."""
    parser = parsers.add_parser("scrape", help="contents for rows that lack them", description=__doc__)
    add_common(parser)
    add, manners = parser.add_argument, Manners()
    text = "where repositories are; {repo} stands for owner/name (default: %(default)s)"
    add("--host-url", default="https://github.com/{repo}.git", metavar="URL", help=text)
    add("--contact", metavar="ADDRESS", help="an e-mail address or a page, told to the host in the user agent")
    add("--rate", type=float, default=manners.rate, metavar="R", help="requests per second (default: %(default)g)")
    text = "repositories that are asked at a time (default: %(default)s)"
    add("--in-flight", type=int, default=manners.in_flight, metavar="N", help=text)
    text = "end after so many refusals in a row; a later start goes on (default: %(default)s)"
    add("--refusals", type=int, default=manners.refusals, metavar="N", help=text)
    add("--timeout", type=float, default=60.0, metavar="S", help="seconds of a request (default: %(default)g)")
    text = "larger files are dropped as too_large (default: 1 MiB)"
    add("--max-bytes", type=int, default=1 << 20, metavar="N", help=text)
    add("--retry", action="store_true", help="ask again what was refused, broken or took too long")


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit code: 1 if a --retry may get more."""
    url, scheme = arguments.host_url, arguments.host_url.partition("://")[0]
    if "{repo}" not in url or url.format(repo="") == url or scheme not in _PROTOCOLS:
        hint = f"{{repo}} in it, and one of {', '.join(_PROTOCOLS)} before ://"
        raise OctoError(f"not a place of repositories: {url!r}", where="--host-url", hint=hint)
    for name in ("rate", "in_flight", "refusals", "timeout", "max_bytes"):
        if getattr(arguments, name) <= 0:
            raise OctoError(f"--{name.replace('_', '-')}: above 0", where="command line")
    if scheme in ("https", "http") and not arguments.contact:
        raise OctoError("no --contact", where="command line", hint="an address at which the host can reach you")
    contact = f" ({arguments.contact})" if arguments.contact else ""
    options = Options(url, arguments.timeout, arguments.max_bytes, f"git/megatron_octo-{__version__}{contact}", scheme)
    found = scrape_rows(
        arguments.inputs,
        Path(arguments.output),
        options,
        Manners(arguments.rate, arguments.in_flight, arguments.refusals),
        jobs=arguments.jobs,
        drop=arguments.drop,
        retry=arguments.retry,
    )
    states = dict(found["states"])  # type: ignore[call-overload]
    print(f"files: {', '.join(f'{count:,} {state}' for state, count in states.items()) or 'none'}")
    print(said(found, arguments.output))
    if left := sum(states.get(state, 0) for state in TRANSIENT):
        print(f"{left:,} files may be there later: start again with --retry")
        return 1
    return 0
