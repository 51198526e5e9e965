"""Commits and what they change, from ``git log --raw -z``; file names are bytes of any kind."""

import functools
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_octo.commits.history.git import GitError, neutral, reason, run, start

_FIELDS = ("%H", "%P", "%an <%ae>", "%cn <%ce>", "%cI", "%B")
_FORMAT = "--format=" + "".join(f"{field}%x00" for field in _FIELDS)
_CHUNK = 1 << 20
_REGULAR = (b"100644", b"100755", b"100664")  # the last one by old versions of git


@dataclass(frozen=True, slots=True)
class Change:
    """One file of a commit. A side that does not exist has no mode and no blob.

    Attributes:
        path: of the file, as git stores it.
        regular: whether each side that exists is a file: no link, no submodule.
    """

    path: bytes
    old_blob: str | None
    new_blob: str | None
    regular: bool


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit with one parent or none; texts are bytes, since git does not check them."""

    id: str
    parents: int
    author: bytes
    committer: bytes
    date: str
    message: bytes
    changes: Sequence[Change]


def commit_ids(directory: Path, revisions: Sequence[str], limit: int | None = None) -> list[str]:
    """Return the ids of all commits but merges that can be reached, newest first.

    Args:
        directory: the git directory.
        revisions: where to begin; ``--all`` is one.
        limit: the most commits.

    Raises:
        GitError: there is no such revision.
    """
    starts = [start for each in revisions for start in _starts(directory, each)]
    if not starts:
        return []
    options = ["--no-merges", *([f"--max-count={limit}"] if limit is not None else [])]
    with neutral(directory, len(starts[0])) as place:
        return run(place, "rev-list", *options, "--stdin", data="\n".join(starts).encode() + b"\n").decode().split()


def _starts(directory: Path, revision: str) -> list[str]:
    """Return the commits that a revision names; those of all branches and tags for ``--all``."""
    if revision != "--all":
        return (
            run(directory, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}").decode().split()[-1:]
        )
    words = ("for-each-ref", "--format=%(objecttype) %(objectname) %(*objecttype) %(*objectname)")
    names: list[str] = []
    for line in run(directory, *words).decode("ascii", "replace").splitlines():
        parts = line.split()
        names += [name for kind, name in zip(parts[::2], parts[1::2]) if kind == "commit"]
    return list(dict.fromkeys(names))


def read_commits(directory: Path, ids: Iterable[str]) -> Iterator[Commit]:
    """Read commits and their changes against the first parent, in the order of the ids.

    Raises:
        GitError: an object is missing or damaged.
    """
    options = ("--no-walk=unsorted", "--stdin", "-z", "--raw", "--no-abbrev", "--no-renames", "--no-mailmap")
    more = (
        "--encoding=UTF-8",
        "--no-color",
        "--no-notes",
        "--no-show-signature",
        "--no-ext-diff",
        "--no-textconv",
        f"-O{os.devnull}",
    )
    wanted = list(ids)
    if not wanted:
        return
    with (
        neutral(directory, len(wanted[0])) as place,
        tempfile.TemporaryFile() as names,
        tempfile.TemporaryFile() as errors,
    ):
        names.write("\n".join(wanted).encode() + b"\n")
        names.seek(0)
        process = start(place, "log", *options, *more, f"-O{os.devnull}", _FORMAT, stdin=names, stderr=errors)
        assert process.stdout is not None
        try:
            yield from parse_log(iter(functools.partial(process.stdout.read, _CHUNK), b""))
            code = process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            process.communicate()
        if code:
            errors.seek(0)
            raise GitError("log", reason(errors.read()), directory)


def _tokens(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        parts = (rest + chunk).split(b"\0")
        rest = parts.pop()
        yield from parts
    yield rest


def parse_log(chunks: Iterable[bytes]) -> Iterator[Commit]:
    """Parse what ``git log`` prints with the options of :func:`read_commits`; a commit that is cut short is left out.

    Args:
        chunks: the output, cut anywhere.
    """
    tokens = _tokens(chunks)
    head: list[bytes] = []
    changes: list[Change] = []
    for token in tokens:
        if 0 < len(head) < len(_FIELDS):
            head.append(token)
            continue
        token = token.lstrip(b"\n")
        if token[:1] == b":" and head:
            path = next(tokens, None)
            if path is None:
                return
            changes.append(_change(token, path))
        elif token:
            if head:
                yield _commit(head, changes)
            head, changes = [token], []
    if len(head) == len(_FIELDS):
        yield _commit(head, changes)


def _commit(head: Sequence[bytes], changes: Sequence[Change]) -> Commit:
    commit, parents, author, committer, date, message = head
    return Commit(
        commit.decode("ascii"),
        parents.count(b" ") + 1 if parents else 0,
        author,
        committer,
        date.decode("ascii", "replace"),
        message,
        changes,
    )


def _change(token: bytes, path: bytes) -> Change:
    """Parse ``:OLDMODE NEWMODE OLDBLOB NEWBLOB STATUS``."""
    old_mode, new_mode, old, new, _ = token[1:].split(b" ")
    there, then = old_mode != b"000000", new_mode != b"000000"
    regular = (not there or old_mode in _REGULAR) and (not then or new_mode in _REGULAR)
    return Change(path, old.decode("ascii") if there else None, new.decode("ascii") if then else None, regular)
