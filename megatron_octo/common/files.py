"""Files that are either complete or not there: write aside, fsync, rename."""

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import xxhash

from megatron_octo.common.errors import OctoError, users_mistake

_CHUNK = 1 << 22
DIGEST_NAME = "xxh3-128"


def digest_bytes(*parts: bytes) -> str:
    """Digest of the concatenated ``parts``, as ``xxh3-128:<32 hex digits>``."""
    state = xxhash.xxh3_128()
    for part in parts:
        state.update(part)
    return f"{DIGEST_NAME}:{state.hexdigest()}"


def regular[P: str | Path](path: P) -> P:
    """Return a path whose read does not wait for a writer; a missing file passes.

    Raises:
        OSError: ENXIO, a pipe, socket or device.
    """
    with contextlib.suppress(FileNotFoundError):
        mode = Path(path).stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.ENXIO, "not a regular file", str(path))
    return path


def digest_file(path: str | Path) -> str:
    """Digest of a file, as ``xxh3-128:<32 hex digits>``.

    XXH3 finds accidents (a truncated copy, a flipped bit) at memory speed; it is no proof
    against an attacker.
    """
    state = xxhash.xxh3_128()
    with open(regular(path), "rb") as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    return f"{DIGEST_NAME}:{state.hexdigest()}"


def digest_json(value: Any) -> str:
    """Digest of a JSON value: the same for the same content, whatever the order of the keys."""
    return digest_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def sync_directory(path: Path) -> None:
    """Make renames inside ``path`` survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(path: Path) -> None:
    """Make all files below ``path`` survive a power cut, and their names."""
    for each in sorted(path.rglob("*"), reverse=True):
        if each.is_file():
            with open(each, "rb") as file:
                os.fsync(file.fileno())
        elif each.is_dir():
            sync_directory(each)
    sync_directory(path)


def new_directory(path: str | Path) -> Path:
    """The place of a directory that will be made beside and renamed: ``path`` without links and dots.

    Raises:
        OctoError: it exists and is not an empty directory, or nothing can be renamed to it.
    """
    try:
        place = Path(path).resolve()
        circle = any(each.is_symlink() for each in (place, *place.parents))  # left as it is from Python 3.13 on
    except RuntimeError:
        circle = True
    if circle:
        raise OctoError("links that lead to each other", where=path)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise OctoError("the output exists already", where=path, hint="remove it or choose another name")
    if os.path.ismount(place) or str(place) in _mount_points():
        raise OctoError(
            "the output is a mount point, to which nothing can be renamed",
            where=path,
            hint="name a directory inside it",
        )
    return place


def _mount_points() -> set[str]:
    """A directory that is mounted at another place of the same file system shows in this list alone."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    points = (line.split(" ")[4] for line in lines)
    return {re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point) for point in points}


def beside(path: Path) -> Path:
    """A hidden name in the same directory that no other process takes, on this host or on another."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove the files that killed writers left :func:`beside` others; for the only process that writes there now.

    Args:
        folder: where the files lie.
        name: which of them; a pattern of :mod:`glob`.
    """
    for path in folder.glob(f".{name}.*.tmp"):
        path.unlink(missing_ok=True)


def create(path: Path, text: str) -> bool:
    """Make a file with its text in one step: a kill leaves all of it or nothing. False if it is there already."""
    aside = path.with_name(f"{beside(path).name}.{threading.get_ident()}")
    for left in range(3, -1, -1):
        try:
            aside.write_text(text, encoding="utf-8")
            os.link(aside, path)
            return True
        except FileExistsError:
            return False
        except FileNotFoundError:  # taken for a leftover between the two
            if not left or not path.parent.is_dir():
                raise
        finally:
            aside.unlink(missing_ok=True)
    raise AssertionError("not reached")


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file beside ``path`` and put it in its place when the block ends well.

    After an error (a full disk, too) the old ``path`` is untouched and nothing else is left.
    """
    path = Path(path)
    aside = beside(path)
    try:
        with open(aside, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync_directory(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Fill a directory beside ``path`` and rename it when the block ends well.

    Raises:
        OctoError: see :func:`new_directory`.
    """
    path = new_directory(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = beside(path)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        sync_tree(aside)
        os.replace(aside, path)
        sync_directory(path.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` atomically as indented UTF-8 JSON."""
    with atomic_write(path, "w") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        OctoError: it is missing or broken.
    """
    try:
        return json.loads(Path(regular(path)).read_bytes())
    except FileNotFoundError:
        raise OctoError("no such file", where=path) from None
    except OSError as error:
        raise (users_mistake(error) or error) from None
    except (ValueError, RecursionError) as error:
        raise OctoError(f"not valid JSON: {error}", where=path) from None


def remove_any(path: Path) -> None:
    """Remove a directory with all in it, a file or a link, if it is there; errors are ignored."""
    if path.is_symlink() or not path.is_dir():
        with contextlib.suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
