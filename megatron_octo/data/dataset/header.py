"""Head of an index file, and what it says about a data set: read in an instant, whatever the size of the data."""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megatron_octo.common.dtypes import INDEX_CODES
from megatron_octo.common.errors import OctoError

MAGIC = b"MMIDIDX\0\0"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")  # magic, version, dtype code, sequences, document indices
REBUILD = "the file is damaged or half copied: copy it again, or run preprocess again"
DTYPES = {code: np.dtype(name) for code, name in INDEX_CODES.items()}
_INTEGERS = {code for code, dtype in DTYPES.items() if dtype.kind in "iu"}


@dataclass(frozen=True)
class Header:
    """Sizes of an index.

    Attributes:
        dtype: of the tokens; ``sequences``, ``documents``: how many there are.
        has_modes: each sequence has a mode byte.
    """

    dtype: np.dtype
    sequences: int
    documents: int
    has_modes: bool


def read_header(path: Path) -> Header:
    """Read the head of an index and compare the file's size with it.

    Raises:
        OctoError: it is not an index, of another version, or damaged.
    """
    found = path.stat().st_size
    with open(path, "rb") as file:
        header = file.read(HEADER.size)
    if len(header) < HEADER.size or header[:9] != MAGIC:
        raise OctoError(f"not a Megatron index: the header is wrong ({found} bytes)", where=path, hint=REBUILD)
    _, version, code, sequences, indices = HEADER.unpack(header)
    if version != VERSION or code not in _INTEGERS:
        raise OctoError(f"index version {version} with dtype code {code} is not supported", where=path)
    need = HEADER.size + 12 * sequences + 8 * indices
    if found not in (need, need + sequences) or indices < 1:
        raise OctoError(
            f"index of {found} bytes, needed {need} or {need + sequences} "
            f"for {sequences} sequences and {indices} document indices",
            where=path,
            hint=REBUILD,
        )
    # Without sequences both sizes are the same, and nothing is lost.
    return Header(DTYPES[code], sequences, indices - 1, bool(sequences) and found == need + sequences)


def count_documents(prefix: str | Path) -> int:
    """Return the number of documents of a data set in either layout, with a look at both files' sizes alone.

    Raises:
        OctoError: a file is missing, damaged or cut.
    """
    parts = [f"{prefix}_{part}_document" for part in ("inputs", "targets")]
    if Path(f"{prefix}.idx").exists() or not any(Path(f"{part}.idx").exists() for part in parts):
        return _count(str(prefix))
    inputs, targets = map(_count, parts)
    if inputs != targets:
        raise OctoError(f"{inputs} documents of inputs but {targets} of targets", where=prefix)
    return inputs


def _count(prefix: str) -> int:
    index, tokens = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    for path in (index, tokens):
        if not path.is_file():
            hint = "give the --output-prefix of preprocess (the path without .bin or .idx)"
            raise OctoError("no such data set file", where=path, hint=hint)
    header = read_header(index)
    need = 0
    if header.sequences:  # the last sequence ends where the file does
        with open(index, "rb") as file:
            file.seek(HEADER.size + 4 * (header.sequences - 1))
            length = int.from_bytes(file.read(4), "little", signed=True)
            file.seek(HEADER.size + 12 * header.sequences - 8)
            need = int.from_bytes(file.read(8), "little") + length * header.dtype.itemsize
    if (found := tokens.stat().st_size) != need:
        raise OctoError(f"{found} bytes, but the index needs {need}", where=tokens, hint=REBUILD)
    return header.documents
