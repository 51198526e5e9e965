"""Records that a run left on the disk, checked while they are read: a bad one is reported and passed over."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import regular
from megatron_octo.common.terminal import printable

Report = Callable[[str], None]  # takes one line about a record that is passed over

Moment = Annotated[float, Field(ge=0, lt=1e11, allow_inf_nan=False)]  # Unix time
Number = Annotated[int, Field(ge=0, lt=2**53)]
Code = Annotated[int, Field(ge=-(2**31), lt=2**31)]  # exit code
JobId = Annotated[str, Field(pattern=r"^\d[\d_+]*$")]  # of SLURM
Words = Annotated[str, AfterValidator(printable)]  # one line without control characters
Lines = Annotated[str, AfterValidator(lambda text: printable(text, keep="\n\t"))]


def ignore(problem: str) -> None:
    """Report nothing."""


def checked[T](adapter: TypeAdapter[T], value: Any, where: str | Path) -> T:
    """Return ``value`` as the adapter's type; ``bytes`` are read as JSON.

    Raises:
        OctoError: it is something else; names the first field that is wrong.
    """
    try:
        return adapter.validate_json(value) if isinstance(value, bytes) else adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        what = printable(f"{field}: {first['msg']}" if field else first["msg"])
        raise OctoError(f"not a valid record: {what}", where=where) from None


def read_record[T](path: Path, adapter: TypeAdapter[T]) -> T:
    """Read a JSON file as the adapter's type.

    Raises:
        OctoError: it is missing, not a file, broken, or holds something else.
    """
    try:
        return checked(adapter, regular(path).read_bytes(), path)
    except FileNotFoundError:
        raise OctoError("no such file", where=path) from None
    except OSError as error:
        raise OctoError(f"cannot be read: {error.strerror}", where=path) from None


def or_none[T](read: Callable[[], T], report: Report = ignore) -> T | None:
    """Return ``read()``, or None after reporting why it cannot be read."""
    try:
        return read()
    except OctoError as error:
        report(f"{error.where}: {error.what}")
        return None
