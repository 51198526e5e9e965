"""Manifest of a data set (``PREFIX.json``): what it was made from. Data sets of other tools work without one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_file, digest_json, read_json, write_json

FORMAT = 1


class FileRecord(BaseModel):
    """Path, size in bytes and ``xxh3-128:`` digest of a file."""

    model_config = ConfigDict(frozen=True, strict=True)

    path: str
    bytes: int
    digest: str


class TokenizerRecord(BaseModel):
    """Path and digest of the tokenizer, largest id + 1 (added tokens included), end of document.

    ``control`` holds its special tokens with their ids; manifests of earlier versions have none. ``backend`` is the
    library that encoded, with its version, ``why_no_fast_path`` why it was not the fast one, ``compared`` the number of
    documents that were encoded by the reference, too, and found to be the same.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    path: str
    digest: str
    vocab_size: int
    eod_id: int
    eod_token: str
    control: Mapping[str, int] = {}
    backend: str = ""
    why_no_fast_path: str = ""
    compared: int = 0


class Manifest(BaseModel):
    """Counts, digests and options of one run of preprocess.

    ``skipped`` and ``notes`` map a reason to a number of rows or documents. ``pretraining``: the documents
    are running text, not pairs for fine-tuning; manifests of earlier versions leave it to the format.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    format: int = FORMAT
    version: str
    documents: int
    tokens: int
    targets: int
    skipped: Mapping[str, int]
    notes: Mapping[str, int]
    tokenizer: TokenizerRecord
    inputs: list[FileRecord]
    outputs: Mapping[str, FileRecord]  # "bin" and "idx"
    options: Mapping[str, Any]
    pretraining: bool | None = None

    def write(self, prefix: str | Path) -> None:
        """Write ``PREFIX.json`` atomically, with a digest of its content."""
        content = self.model_dump()
        write_json(manifest_path(prefix), {**content, "digest": digest_json(content)})


def manifest_path(prefix: str | Path) -> Path:
    """Return the path of the manifest of a data set."""
    return Path(f"{prefix}.json")


def read_manifest(prefix: str | Path) -> Manifest | None:
    """Read the manifest of a data set, None if there is none.

    Raises:
        OctoError: there is one, and it is broken or of a later format.
    """
    path = manifest_path(prefix)
    if not path.exists():
        return None
    content = read_json(path)
    if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
        raise OctoError(
            f"manifest of format {content['format']!r}, this version reads {FORMAT}",
            where=path,
            hint="update",
        )
    # Manifests of earlier versions have no digest of themselves.
    digest = content.pop("digest", None) if isinstance(content, dict) else None
    if digest not in (None, digest_json(content)):
        raise OctoError(
            "damaged manifest: its content is not what its digest says",
            where=path,
            hint="copy it again, or run preprocess again; it is not for editing",
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise OctoError(
            f"not a manifest of preprocess: {key}: {first['msg']}",
            where=path,
            hint="run preprocess again, or remove this file to use the data without it",
        ) from None


def check_tokens(prefix: str | Path) -> None:
    """Compare the tokens with the digest in the manifest, if there is one; reads the whole .bin.

    Raises:
        OctoError: the file has changed since it was written.
    """
    manifest, path = read_manifest(prefix), Path(f"{prefix}.bin")
    if manifest is not None and digest_file(path) != manifest.outputs["bin"].digest:
        raise OctoError(
            "the tokens have changed since they were written (digest differs)",
            where=path,
            hint="copy the data set again, or run preprocess again",
        )


def checked_manifest(prefix: str | Path, idx_digest: str) -> Manifest | None:
    """Read the manifest of a data set whose index has ``idx_digest``.

    Raises:
        OctoError: the manifest is of other files than those beside it.
    """
    manifest = read_manifest(prefix)
    if manifest is not None and manifest.outputs["idx"].digest != idx_digest:
        raise OctoError(
            f"the manifest belongs to another index ({manifest.outputs['idx'].digest}, found {idx_digest})",
            where=manifest_path(prefix),
            hint=f"copy {prefix}.bin, .idx and .json together, or run preprocess again",
        )
    return manifest
