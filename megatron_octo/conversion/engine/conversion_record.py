"""``conversion.json``: the record that a conversion leaves in the directory that it wrote."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_octo.checkpoint.digest import FileRecord, differing
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_file, digest_json, read_json, write_json

RECORD = "conversion.json"


def write_record(
    directory: Path, files: Mapping[str, FileRecord], source: Mapping[str, Any], job: Mapping[str, Any]
) -> None:
    """Write digests of files, their origin, and a digest of the job (input and options)."""
    record = {
        "files": {name: files[name] for name in sorted(files)},
        "source": {key: value for key, value in source.items() if value is not None},
        "job": digest_json(job),
    }
    write_json(directory / RECORD, record)


def file_record(path: Path) -> FileRecord:
    """Return size and digest of a small file."""
    return FileRecord(bytes=path.stat().st_size, digest=digest_file(path))


def recorded_digests(directory: Path) -> dict[str, str]:
    """Return the digests that a conversion recorded of a directory's files, if it did.

    Raises:
        OctoError: the record is broken, or a small file has changed or is missing. Weights are compared when read.
    """
    if not (directory / RECORD).is_file():
        return {}
    tree: Any = read_json(directory / RECORD)
    try:
        found = {name: str(each["digest"]) for name, each in tree["files"].items()}
        tokenizer = tree.get("source", {}).get("tokenizer")
    except (AttributeError, LookupError, TypeError):
        raise OctoError(
            "no digests of files here, as to-hf writes them",
            where=directory / RECORD,
            hint="restore it, or remove it to read the model without comparing digests",
        ) from None
    if isinstance(tokenizer, str) and (directory / "tokenizer.json").is_file():
        found.setdefault("tokenizer.json", tokenizer)
    small = {directory / name: found[name] for name in found if not name.endswith(".safetensors")}
    missing = [path for path in small if not path.is_file()]
    if changed := missing or differing(small):
        how = "is missing" if missing else "has changed since it was written (digest differs)"
        raise OctoError(
            f"{changed[0].name} {how}",
            where=directory,
            hint=f"restore it; if you changed it on purpose, remove its digest from {RECORD}",
        )
    return found


def is_result(directory: Path, job: Mapping[str, Any]) -> bool:
    """Return whether a directory is the result of a job, so that a failed upload needs no second conversion.

    Raises:
        OctoError: it is, and was damaged since.
    """
    if not (directory / RECORD).is_file():
        return False
    tree: Any = read_json(directory / RECORD)
    if not isinstance(tree, dict) or tree.get("job") != digest_json(job):
        return False
    expected = {directory / name: record["digest"] for name, record in tree["files"].items()}
    missing = [path for path in expected if not path.is_file()]
    if changed := missing or differing(expected):
        raise OctoError(
            f"{changed[0].name} {'is missing' if missing else 'has changed since it was written'}",
            where=directory,
            hint="remove the directory and convert again",
        )
    return True
