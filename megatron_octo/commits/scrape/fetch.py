"""Fetching of versions of files from one repository, by few requests of git."""

import contextlib
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_octo.commits.history import git
from megatron_octo.commits.history.blobs import BlobReader
from megatron_octo.commits.scrape.ledger import (
    ABSENT,
    BINARY,
    BROKEN,
    GONE,
    NOT_FOUND,
    OK,
    REFUSED,
    TIMEOUT,
    TOO_LARGE,
    UNDECODABLE,
    Found,
)
from megatron_octo.commits.scrape.politeness import Host

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+")
_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_HTTP = re.compile(r"returned error: (\d+)")
_RETRY = re.compile(r"retry-after:\s*(\d+)", re.IGNORECASE)
_GONE = (
    "not found", "does not exist", "not exported", "could not read username", "authentication failed",
    "does not appear to be a git repository", "access denied", "empty string is not a valid pathspec",
)  # fmt: skip
_LACKING = ("not our ref", "bad object", "couldn't find remote ref", "no such remote ref", "missing blob object")
_REFUSING = (
    "could not resolve host", "couldn't connect", "could not connect", "connection refused", "unable to connect",
    "unable to look up", "connection timed out", "operation timed out", "network is unreachable", "connection reset",
)  # fmt: skip
_BLOBS = 1000  # of one request
_TRIES = 4  # of a request that is refused
_STATES = {
    "ok": OK,
    "missing": NOT_FOUND,
    "damaged": NOT_FOUND,
    "too_large": TOO_LARGE,
    "binary": BINARY,
    "undecodable": UNDECODABLE,
}


@dataclass(frozen=True)
class Options:
    """How repositories are asked.

    Attributes:
        url: with ``{repo}`` for ``owner/name``.
        timeout: seconds of a request.
        most_bytes: larger files are not kept.
        agent: git's name for itself, with a contact.
        protocols: that git may use.
    """

    url: str
    timeout: float
    most_bytes: int
    agent: str
    protocols: str


class _FetchError(Exception):
    """Raised where a request failed; holds the state of what was asked for."""

    def __init__(self, state: str, message: str) -> None:
        super().__init__(message)
        self.state = state


def is_repository(name: str) -> bool:
    """Return whether a name is ``owner/name`` as hosts give them; others could lead elsewhere."""
    return bool(_NAME.fullmatch(name)) and ".." not in name and not name.endswith((".", ".lock"))


class Fetcher:
    """Fetcher from one repository, into a bare one of its own that is removed afterwards.

    Args:
        options: how to ask.
        host: the turns.
        folder: for temporary repositories.
    """

    def __init__(self, options: Options, host: Host, folder: Path) -> None:
        self._options, self._host, self._folder = options, host, folder
        self._broken: set[str] = set()

    def fetch(self, repo: str, keys: Sequence[str]) -> dict[str, Found]:
        """Fetch the versions that keys name.

        Raises:
            TooManyRefusalsError: the host refuses to answer.
        """
        if not is_repository(repo):
            return dict.fromkeys(keys, Found(GONE))
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=self._folder, ignore_cleanup_errors=True) as name:
            place = Path(name)
            digits = 64 if any(len(key.partition(":")[0].rstrip("^")) == 64 for key in keys) else 40
            git.run(None, "init", "--quiet", "--bare", f"--object-format=sha{256 if digits == 64 else 1}", str(place))
            url = self._options.url.format(repo=repo)
            found: dict[str, Found] = {}
            ids = {key: key for key in keys if _ID.fullmatch(key)}
            try:
                found |= self._resolve(place, url, [key for key in keys if key not in ids], ids)
                self._ask(place, url, sorted(set(ids.values())), depth=1)
            except _FetchError as error:
                return found | dict.fromkeys([key for key in keys if key not in found], Found(error.state))
            return found | self._read(place, ids)

    def _resolve(self, place: Path, url: str, keys: Sequence[str], ids: dict[str, str]) -> dict[str, Found]:
        """Fetch commits, and add the blob ids of ``COMMIT:PATH`` to ``ids``; returns the states of the others."""
        good = [key for key in keys if _ID.fullmatch(key.partition(":")[0].rstrip("^"))]
        found = {key: Found(NOT_FOUND) for key in keys if key not in good}
        if not good:
            return found
        commits = sorted({key.partition(":")[0].rstrip("^") for key in good})
        self._ask(place, url, commits, depth=2)
        for key, blob in zip(good, _blob_ids(place, good)):
            if blob is not None:
                ids[key] = blob
            else:
                commit = key.partition(":")[0]
                has_commit = _blob_ids(place, [f"{commit.rstrip('^')}^{{commit}}"])[0] is not None
                found[key] = Found(ABSENT if has_commit else NOT_FOUND)
        return found

    def _ask(self, place: Path, url: str, ids: Sequence[str], depth: int) -> None:
        """Fetch objects by id, some hundreds a request; an id that the repository lacks stays missing.

        Raises:
            _FetchError: nothing came, for a reason that holds for all of the repository.
        """
        for start in range(0, len(ids), _BLOBS):
            self._request(place, url, list(ids[start : start + _BLOBS]), depth)

    def _request(self, place: Path, url: str, ids: list[str], depth: int) -> None:
        """Ask for some ids; halves isolate those that the repository lacks or cannot send."""
        refusals = 0
        while True:
            self._host.wait()
            try:
                self._call(place, url, ids, depth)
                self._host.accepted()
                return
            except _FetchError as error:
                if error.state == REFUSED:
                    retry = _RETRY.search(str(error))
                    self._host.refused(float(retry[1]) if retry else None)
                    refusals += 1
                    if refusals == _TRIES:
                        raise
                    continue
                self._host.accepted()
                if error.state not in (NOT_FOUND, BROKEN):
                    raise
                if len(ids) == 1:
                    if error.state == BROKEN:
                        self._broken.add(ids[0])
                    return
            half = len(ids) // 2
            self._request(place, url, ids[:half], depth)
            ids, refusals = ids[half:], 0

    def _call(self, place: Path, url: str, ids: Sequence[str], depth: int) -> None:
        settings = {
            "credential.helper": "",
            "fetch.negotiationAlgorithm": "noop",
            "remote.origin.url": url,
        }
        words = git.command(
            place, *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")), "fetch",
            "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--recurse-submodules=no",
            f"--depth={depth}", "--filter=blob:none", "--stdin", "origin",
        )  # fmt: skip
        trace = place / "trace"
        variables = git.environment(local=False) | {
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "GIT_ALLOW_PROTOCOL": self._options.protocols,
            "GIT_HTTP_USER_AGENT": self._options.agent,
            "GIT_TRACE_CURL": str(trace),
            "GIT_TRACE_CURL_NO_DATA": "1",
        }
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=variables, cwd=os.sep,
            start_new_session=True,
        )  # fmt: skip
        try:
            _, stderr = process.communicate(("\n".join(ids) + "\n").encode("ascii"), self._options.timeout)
        except subprocess.TimeoutExpired:
            raise _FetchError(TIMEOUT, f"not done after {self._options.timeout:g} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        if process.returncode:
            headers = trace.read_text(errors="replace") if trace.is_file() else ""
            raise _failure(stderr.decode("utf-8", "replace"), headers)
        trace.unlink(missing_ok=True)

    def _read(self, place: Path, ids: dict[str, str]) -> dict[str, Found]:
        found: dict[str, Found] = {}
        keys = sorted(ids)
        with BlobReader(place, self._options.most_bytes) as reader:
            for start in range(0, len(keys), 500):
                some = keys[start : start + 500]
                for key, content in zip(some, reader.read([ids[key] for key in some])):
                    broken = content.state == "missing" and ids[key] in self._broken
                    found[key] = Found(BROKEN if broken else _STATES[content.state], content.text)
        return found


def _failure(stderr: str, headers: str) -> _FetchError:
    """Return what a failed request of git means."""
    lower = stderr.lower()
    code = _HTTP.search(lower)
    if any(words in lower for words in _LACKING):
        return _FetchError(NOT_FOUND, stderr)
    if code is not None and (int(code[1]) in (403, 408, 429) or int(code[1]) >= 500):
        retry = _RETRY.search(headers)
        return _FetchError(REFUSED, f"{stderr} {retry[0] if retry else ''}")
    if code is not None or any(words in lower for words in _GONE):
        return _FetchError(GONE, stderr)
    refused = any(words in lower for words in _REFUSING)
    return _FetchError(REFUSED if refused else BROKEN, stderr)  # broken: an answer that breaks off


def _blob_ids(place: Path, names: Sequence[str]) -> list[str | None]:
    """Return the ids of objects by name; None for those that are not there. The names may hold line breaks."""
    with git.neutral(place, 64 if len(names[0].partition(":")[0]) >= 64 else 40) as neutral:
        data = b"".join(os.fsencode(name) + b"\0" for name in names)
        variables = {"GIT_SHALLOW_FILE": str(place / "shallow")}
        where = git.Place(neutral.directory, {**neutral.variables, **variables})
        found = git.run(where, "cat-file", "--batch-check=%(objectname) %(objecttype)", "-z", data=data)
    ids: list[str | None] = []
    rest = found.decode("utf-8", "surrogateescape")
    for name in names:
        missing = f"{name} missing\n"
        if rest.startswith(missing):
            ids.append(None)
            rest = rest[len(missing) :]
        else:
            line, _, rest = rest.partition("\n")
            ids.append(line.partition(" ")[0])
    return ids
