"""Calls of git: arguments as lists, no prompt, none of the programs that a repository's settings name.

Objects are read through :func:`neutral`, a git directory without settings: a foreign repository cannot start programs,
and a blob that is missing in a partial clone is missing, where git itself would ask a server for it.
"""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from megatron_octo.common.errors import OctoError
from megatron_octo.common.terminal import printable

PROTOCOLS = "file:git:http:https:ssh"  # ext:: and the like would run commands
# Settings of a repository's own file that would start programs or change what is printed.
_SAFE = (
    ("core.fsmonitor", "false"),
    ("core.quotePath", "false"),
    ("core.hooksPath", os.devnull),
    ("core.pager", "cat"),
    ("core.useReplaceRefs", "false"),
    ("diff.noprefix", "false"),
    ("gc.auto", "0"),
    ("log.follow", "false"),
    ("log.mailmap", "false"),
    ("log.showRoot", "true"),
    ("log.showSignature", "false"),
    ("maintenance.auto", "false"),
    ("submodule.recurse", "false"),
)


def environment(*, local: bool) -> dict[str, str]:
    """Return the variables of a call.

    Args:
        local: read without the configuration of user and system; calls that talk to servers keep it, for proxies
            and credentials.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    network = {} if local else {name: value for name, value in os.environ.items() if name.startswith("GIT_SSL_")}
    config = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull} if local else {}
    return {
        **kept,
        **network,
        **config,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "SSH_ASKPASS": "true",
        "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
        "GIT_ALLOW_PROTOCOL": "none" if local else PROTOCOLS,
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "LC_ALL": "C",
    }


@dataclass(frozen=True)
class Place:
    """Where git reads: a git directory, and the variables that lead to objects elsewhere."""

    directory: Path
    variables: Mapping[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def neutral(directory: Path, digits: int) -> Iterator[Place]:
    """Give a git directory without settings and refs on the objects of a repository.

    Args:
        directory: the repository's git directory.
        digits: of its ids: 40, or 64 for SHA-256.
    """
    common = directory / "commondir"
    base = directory / common.read_text(encoding="utf-8").strip() if common.is_file() else directory
    variables = {"GIT_OBJECT_DIRECTORY": os.fspath(base / "objects")}
    if (base / "shallow").is_file():
        variables["GIT_SHALLOW_FILE"] = os.fspath(base / "shallow")
    with tempfile.TemporaryDirectory(prefix="octo-git-") as name:
        place = Path(name)
        (place / "refs").mkdir()
        (place / "HEAD").write_text("ref: refs/heads/none\n", encoding="utf-8")
        more = "\n[extensions]\n\tobjectFormat = sha256" if digits == 64 else ""
        text = f"[core]\n\trepositoryFormatVersion = {1 if more else 0}\n\tbare = true{more}\n"
        (place / "config").write_text(text, encoding="utf-8")
        yield Place(place, variables)


def command(place: Path | Place | None, *words: str) -> list[str]:
    """Return a call of git on a git directory."""
    settings = [word for name, value in _SAFE for word in ("-c", f"{name}={value}")]
    directory = place.directory if isinstance(place, Place) else place
    return ["git", *settings, *([] if directory is None else [f"--git-dir={directory}"]), *words]


def _variables(place: Path | Place | None, *, local: bool) -> dict[str, str]:
    return environment(local=local) | dict(place.variables if isinstance(place, Place) else {})


def run(
    place: Path | Place | None,
    *words: str,
    data: bytes | None = None,
    timeout: float | None = None,
    local: bool = True,
) -> bytes:
    """Run git and return what it prints.

    Raises:
        GitError: it failed, or did not end in time.
    """
    try:
        done = subprocess.run(
            command(place, *words),
            input=data,
            stdin=None if data is not None else subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            env=_variables(place, local=local),
            cwd=os.sep,
            check=False,
        )
    except FileNotFoundError:
        raise OctoError("git is not installed", where="PATH", hint="apt install git") from None
    except subprocess.TimeoutExpired:
        raise GitError(words[0], f"not done after {timeout:g} s", _shown(place)) from None
    if done.returncode:
        raise GitError(words[0], reason(done.stderr), _shown(place))
    return done.stdout


def _shown(place: Path | Place | None) -> str | None:
    if isinstance(place, Place):
        return place.variables["GIT_OBJECT_DIRECTORY"]
    return None if place is None else str(place)


def start(
    place: Path | Place,
    *words: str,
    stdin: int | IO[bytes] = subprocess.PIPE,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
) -> "subprocess.Popen[bytes]":
    """Start git on local objects, with pipes."""
    return subprocess.Popen(
        command(place, *words),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=_variables(place, local=True),
        cwd=os.sep,
        bufsize=1 << 16,
    )


def reason(stderr: bytes) -> str:
    """Return the line of git's messages that names the failure."""
    lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    found = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines
    return printable(found[0])[:300] if found else "no message"


class GitError(OctoError):
    """Raised where git failed."""

    def __init__(self, what: str, why: str, where: Path | str | None):
        super().__init__(f"git {what} failed: {why}", where=where)


def find_directory(path: Path) -> Path | None:
    """Return the git directory of a local repository, bare or not; None if there is none."""
    for place in (path / ".git", path):
        if place.is_file() or (place / "HEAD").is_file():
            try:
                found = run(place, "rev-parse", "--absolute-git-dir")
            except GitError:
                continue
            return Path(os.fsdecode(found.removesuffix(b"\n")))
    return None


def settings_of(directory: Path) -> Mapping[str, str]:
    """Return the settings in a repository's own file; none if it cannot be read."""
    try:
        text = run(directory, "config", "--local", "--null", "--list")
    except GitError:  # a copy without the file is a repository all the same
        return {}
    pairs = (item.partition("\n") for item in text.decode("utf-8", "replace").split("\0") if item)
    return {name: value for name, _, value in pairs}
