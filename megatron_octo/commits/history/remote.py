"""Remote repositories: cloned bare into a cache, whole or without blobs, and refreshed when they are used again."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from megatron_octo.commits.history.git import PROTOCOLS, GitError, neutral, run
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import beside, sync_directory
from megatron_octo.common.leases import flock

TIMEOUT = 3600.0  # seconds of a clone
_FETCH = 2000  # blobs of one request
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[^/]*)(?:/(?P<path>.*))?", re.IGNORECASE)
_SCP = re.compile(r"(?:[\w.-]+@)?[\w.-]+:(?!/)(?P<path>[^:]+)")  # git@host:owner/name.git


def is_url(text: str) -> bool:
    """Return whether a text names a remote repository: a URL, or ``user@host:path`` where no such file exists."""
    return bool(_URL.fullmatch(text)) or (bool(_SCP.fullmatch(text)) and not Path(text).exists())


def check_url(url: str) -> str:
    """Return a URL that git may be given.

    Raises:
        OctoError: its protocol is none of those that only talk to a server.
    """
    found = _URL.fullmatch(url)
    if found and found["scheme"].lower() not in PROTOCOLS.split(":"):
        hint = f"one of {PROTOCOLS.replace(':', ', ')}"
        raise OctoError(f"the protocol {found['scheme']!r} is not taken", where=url, hint=hint)
    return url


def name_of_url(url: str) -> str:
    """Return ``owner/name`` of a URL: the last two parts of its path, without ``.git``."""
    found = _URL.fullmatch(url) or _SCP.fullmatch(url)
    path = (found["path"] or "") if found else url
    parts = [part for part in path.rstrip("/").removesuffix("/.git").removesuffix(".git").split("/") if part]
    return "/".join(parts[-2:]) or url


def cache_root() -> Path:
    """Return the default directory of clones: below ``XDG_CACHE_HOME``, else ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "megatron_octo" / "git"


def place_of(url: str, cache: Path, *, blobless: bool) -> Path:
    """Return where the clone of a URL lies in a cache."""
    digest = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", name_of_url(url)).strip("-.")[-60:] or "repository"
    return cache / f"{readable}-{digest}{'-blobless' if blobless else ''}.git"


def mirror(url: str, cache: Path, *, blobless: bool = False, refresh: bool = True, timeout: float = TIMEOUT) -> Path:
    """Clone a repository into the cache, or refresh the clone that is there.

    A clone is complete or absent. Two processes with the same cache wait for each other.

    Args:
        url: of the repository.
        cache: directory of clones.
        blobless: leave contents out; :func:`fetch_blobs` gets those that are wanted.
        refresh: fetch what is new in a clone that is there.
        timeout: seconds.

    Raises:
        GitError: the server does not answer, or has no such repository.
    """
    check_url(url)
    cache.mkdir(parents=True, exist_ok=True)
    place = place_of(url, cache, blobless=blobless)
    handle = flock(cache / f".{place.name}.lock", None)
    try:
        if place.is_dir():
            if refresh:
                _refresh(place, timeout)
            return place
        aside = beside(place)
        shutil.rmtree(aside, ignore_errors=True)
        more = ("--filter=blob:none",) if blobless else ()
        try:
            words = ("--quiet", "--bare", "--no-hardlinks", "--template=", "--config=gc.auto=0", *more)
            run(None, "clone", *words, "--", url, os.fspath(aside), timeout=timeout, local=False)
            os.replace(aside, place)
            sync_directory(cache)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        return place
    finally:
        os.close(handle)


def _refresh(place: Path, timeout: float) -> None:
    """Fetch what is new; what is gone from the server goes here, too, and HEAD follows the server's."""
    words = ("--quiet", "--prune", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance")
    refs = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
    run(place, "fetch", *words, "origin", *refs, timeout=timeout, local=False)
    lines = run(place, "ls-remote", "--symref", "origin", "HEAD", timeout=timeout, local=False).splitlines()
    if lines and lines[0].startswith(b"ref: ") and lines[0].endswith(b"\tHEAD"):
        run(place, "symbolic-ref", "HEAD", os.fsdecode(lines[0][len(b"ref: ") : -len(b"\tHEAD")]))


def is_blobless(directory: Path) -> bool:
    """Return whether a clone of the cache was made without blobs."""
    return directory.name.endswith("-blobless.git")


def missing_blobs(directory: Path, ids: Iterable[str]) -> list[str]:
    """Return those of the ids that a repository does not have, each once, in their order."""
    wanted = list(dict.fromkeys(ids))
    if not wanted:
        return []
    with neutral(directory, len(wanted[0])) as place:
        answers = run(place, "cat-file", "--batch-check", data=("\n".join(wanted) + "\n").encode("ascii"))
    return [blob for blob, line in zip(wanted, answers.splitlines()) if line.endswith(b" missing")]


def fetch_blobs(directory: Path, ids: Iterable[str], *, timeout: float = TIMEOUT) -> int:
    """Fetch blobs by id from the server of a blobless clone, many a request; returns how many were missing.

    A request that the server refuses because of one id is cut in halves, until that id is alone; it stays missing.

    Raises:
        GitError: the server does not answer.
    """
    missing = missing_blobs(directory, ids)
    for start in range(0, len(missing), _FETCH):
        _request(directory, missing[start : start + _FETCH], timeout)
    return len(missing)


def _request(directory: Path, ids: list[str], timeout: float) -> None:
    words = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--recurse-submodules=no")
    data = ("\n".join(ids) + "\n").encode("ascii")
    options = ("-c", "fetch.negotiationAlgorithm=noop", "fetch", *words, "--filter=blob:none", "--stdin", "origin")
    try:
        run(directory, *options, data=data, timeout=timeout, local=False)
    except GitError as error:
        if "not our ref" not in str(error) and "bad object" not in str(error):
            raise
        if len(ids) > 1:
            half = len(ids) // 2
            _request(directory, ids[:half], timeout)
            _request(directory, ids[half:], timeout)
