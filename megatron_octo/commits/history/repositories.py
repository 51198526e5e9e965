"""Repositories as a command line names them: ``PATH``, ``URL``, or ``owner/name=PATH`` for another name in the rows."""

import re
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from megatron_octo.commits.history.blobs import BlobReader
from megatron_octo.commits.history.extract import Source
from megatron_octo.commits.history.git import GitError, find_directory, run, settings_of
from megatron_octo.commits.history.remote import check_url, fetch_blobs, is_blobless, is_url, mirror, name_of_url
from megatron_octo.commits.rows import UNKNOWN
from megatron_octo.commits.tables.licences import FILES, licence_of_text
from megatron_octo.common.errors import OctoError

_NAMED = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?)=(?P<rest>.+)", re.DOTALL)


@dataclass(frozen=True)
class Repository:
    """A repository that is to be read.

    Attributes:
        given: as the command line has it.
        where: path or URL.
        name: for the rows; None: by its URL, or by its directory.
        remote: whether it has to be cloned first.
    """

    given: str
    where: str
    name: str | None
    remote: bool


@dataclass(frozen=True)
class Clones:
    """How remote repositories are cloned: see :func:`~megatron_octo.commits.history.remote.mirror`."""

    cache: Path
    blobless: bool = False
    refresh: bool = True
    timeout: float = 3600.0


def parse_repository(text: str) -> Repository:
    """Parse an argument.

    Raises:
        OctoError: a local path that holds no repository, or a protocol that is not taken.
    """
    named = None if is_url(text) or Path(text).exists() else _NAMED.fullmatch(text)
    name, where = (named["name"], named["rest"]) if named else (None, text)
    if is_url(where):
        return Repository(text, check_url(where), name, True)
    path = Path(where)
    if not path.exists():
        hint = "a path, a URL, or owner/name=PATH"
        raise OctoError("no such repository", where=where, hint=hint)
    if find_directory(path.absolute()) is None:
        raise OctoError("not a git repository, or damaged", where=where, hint="name its directory, bare or not")
    return Repository(text, str(path.absolute()), name, False)


def open_repository(repository: Repository, clones: Clones, licence: str | None) -> Source:
    """Return a repository that can be read here; a remote one is cloned first.

    Args:
        repository: the repository.
        clones: of remote ones.
        licence: of the rows; None: that of the repository's licence file, where it is known.

    Raises:
        GitError: it cannot be cloned.
        OctoError: it is no repository.
    """
    if repository.remote:
        directory = mirror(
            repository.where,
            clones.cache,
            blobless=clones.blobless,
            refresh=clones.refresh,
            timeout=clones.timeout,
        )
    else:
        found = find_directory(Path(repository.where))
        if found is None:
            raise OctoError("not a git repository", where=repository.where)
        directory = found
    return Source(directory, repository.name or _name(repository, directory), licence or find_licence(directory))


def _name(repository: Repository, directory: Path) -> str:
    if repository.remote:
        return name_of_url(repository.where)
    url = settings_of(directory).get("remote.origin.url", "")
    if is_url(url):
        return name_of_url(url)
    path = Path(repository.where).resolve()
    return (path.parent if path.name == ".git" else path).name.removesuffix(".git").replace(",", "-")


def find_licence(directory: Path) -> str:
    """Return the licence of a repository by the file in its root, ``unknown`` if none tells; several by commas."""
    try:
        listed = run(directory, "ls-tree", "-z", "HEAD")
    except GitError:  # no commit yet
        return UNKNOWN
    ids = []
    for entry in listed.split(b"\0"):
        head, _, path = entry.partition(b"\t")
        if b" blob " in head and FILES.fullmatch(path.decode("utf-8", "replace")):
            ids.append(head.split(b" ")[2].decode("ascii"))
    if is_blobless(directory):
        fetch_blobs(directory, ids)
    with BlobReader(directory) as reader:
        found = {licence_of_text(each.text) for each in reader.read(ids[:100]) if each.text is not None}
    return ",".join(sorted(found - {UNKNOWN})) or UNKNOWN


class Opening:
    """Repositories that are being cloned, a few at a time, while others are read; inside a ``with`` block."""

    def __init__(self, repositories: list[Repository], clones: Clones, licence: str | None, at_once: int):
        self._pool = ThreadPoolExecutor(max(at_once, 1))
        self._futures: list[Future[Source]] = [
            self._pool.submit(open_repository, each, clones, licence) for each in repositories
        ]

    def __enter__(self) -> "Opening":
        """Return the object."""
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __getitem__(self, number: int) -> Source:
        """Wait for a repository.

        Raises:
            OctoError: it cannot be opened.
        """
        return self._futures[number].result()
