"""Commits that edit one file, as rows with the contents before and after."""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from megatron_octo.commits.history.blobs import MOST_BYTES, BlobReader, Content
from megatron_octo.commits.history.walk import Change, Commit, read_commits
from megatron_octo.commits.rows import Row
from megatron_octo.commits.tables.languages import language_of

_BATCH = 128  # commits whose contents are in memory at the same time
_KEPT = 16 << 20  # bytes of contents kept for the next batch, in which the file's version before is wanted


@dataclass(frozen=True)
class Wanted:
    """What counts as a commit of one file.

    By default exactly one file is edited, and files that the commit adds, removes or renames do not count: this is the
    rule of CommitPack's queries. Merges never count; links and submodules are left out.

    Attributes:
        alone: the commit touches nothing else.
        creations: a file that the commit adds counts, too; its contents before are missing (None).
        roots: first commits count, which add files only; needs ``creations``.
        most_bytes: larger files are dropped.
    """

    alone: bool = False
    creations: bool = False
    roots: bool = False
    most_bytes: int = MOST_BYTES

    def choose(self, commit: Commit) -> Change | None:
        """Return the one file of a commit; None if it has none or several."""
        if commit.parents > 1 or (commit.parents == 0 and not self.roots):
            return None
        if self.alone and len(commit.changes) != 1:
            return None
        found = None
        for change in commit.changes:
            if change.regular and change.new_blob is not None and (change.old_blob is not None or self.creations):
                if found is not None:
                    return None
                found = change
        return found


@dataclass(frozen=True)
class Source:
    """A repository as rows name it.

    Attributes:
        directory: the git directory.
        name: for the column of repositories.
        license: of the repository, for the column of licences.
    """

    directory: Path
    name: str
    license: str | None


def rows_of(source: Source, ids: Sequence[str], wanted: Wanted, count: Counter[str]) -> Iterator[Row]:
    """Yield the rows of commits, in the order of their ids.

    A row without text on one side is dropped: ``missing``, ``damaged``, ``too_large``, ``binary``, ``undecodable``.

    Args:
        source: the repository.
        ids: of the commits.
        wanted: which commits become rows.
        count: takes the number of ``commits`` read, and of ``blobs``.

    Raises:
        GitError: a commit or a tree is missing or damaged.
    """
    chosen = list(_chosen(source, ids, wanted))
    count["commits"] += len(ids)
    yield from _with_contents(source, chosen, wanted.most_bytes, count)


def _chosen(source: Source, ids: Sequence[str], wanted: Wanted) -> Iterator[tuple[Commit, Change]]:
    for commit in read_commits(source.directory, ids):
        change = wanted.choose(commit)
        if change is not None:
            yield commit, change


def wanted_blobs(source: Source, ids: Sequence[str], wanted: Wanted) -> list[str]:
    """Return the ids of the blobs that :func:`rows_of` reads, each once."""
    return list(dict.fromkeys(_ids(_chosen(source, ids, wanted))))


def _with_contents(
    source: Source, chosen: Iterable[tuple[Commit, Change]], most_bytes: int, count: Counter[str]
) -> Iterator[Row]:
    cache = _Cache()
    left = iter(chosen)
    with BlobReader(source.directory, most_bytes) as reader:
        while batch := list(islice(left, _BATCH)):
            ids = {blob for _, change in batch for blob in (change.new_blob, change.old_blob) if blob is not None}
            contents = {blob: found for blob in ids if (found := cache.get(blob)) is not None}
            missing = [blob for blob in dict.fromkeys(_ids(batch)) if blob not in contents]
            contents.update(zip(missing, reader.read(missing)))
            count["blobs"] += len(missing)
            for commit, change in batch:
                yield _row(source, commit, change, contents)
            for _, change in batch:
                if change.old_blob is not None:
                    cache.put(change.old_blob, contents[change.old_blob])


def _ids(batch: Iterable[tuple[Commit, Change]]) -> Iterator[str]:
    for _, change in batch:
        for blob in (change.new_blob, change.old_blob):
            if blob is not None:
                yield blob


class _Cache:
    """The contents that were put in last, up to :data:`_KEPT` bytes."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, Content] = OrderedDict()
        self._size = 0

    def get(self, blob: str) -> Content | None:
        return self._held.get(blob)

    def put(self, blob: str, content: Content) -> None:
        if blob in self._held or content.size > _KEPT // 4:
            return
        self._held[blob] = content
        self._size += content.size
        while self._size > _KEPT:
            _, old = self._held.popitem(last=False)
            self._size -= old.size


def _text(data: bytes) -> tuple[str, bool]:
    """Decode a name or a message; False if it is not UTF-8."""
    try:
        return data.decode("utf-8"), True
    except UnicodeDecodeError:
        return data.decode("utf-8", "backslashreplace"), False


def _row(source: Source, commit: Commit, change: Change, contents: dict[str, Content]) -> Row:
    name, good_name = _text(change.path)
    message, good_message = _text(commit.message.strip(b" \t\r\n"))
    row = Row(
        commit=commit.id,
        old_file=name if change.old_blob is not None else "",
        new_file=name,
        subject=message.partition("\n")[0].rstrip(" \t\r"),
        message=message,
        lang=language_of(name),
        license=source.license,
        repos=source.name,
        old_blob=change.old_blob,
        new_blob=change.new_blob,
        author=_text(commit.author)[0],
        committer=_text(commit.committer)[0],
        date=commit.date,
    )
    for side, blob in (("old", change.old_blob), ("new", change.new_blob)):
        if blob is None:
            continue
        content = contents[blob]
        setattr(row, f"{side}_contents", content.text)
        if content.state != "ok":
            size = f", {content.size:,} bytes" if content.size else ""
            row.mark(content.state, f"{side} contents{size}")
    if not good_name:
        row.mark("undecodable", "file name")
    if not good_message:
        row.mark("undecodable", "message")
    return row
