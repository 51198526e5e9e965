"""Uploads a converted model to the Hugging Face Hub."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_octo.common.errors import OctoError


@contextlib.contextmanager
def _explained(repository: str) -> Iterator[None]:
    """Turn any error of the client or of its HTTP library into a message about network and login."""
    try:
        yield
    except OctoError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise OctoError(
            f"cannot push to the Hub: {reason}",
            where=repository,
            hint="log in (hf auth login, or HF_TOKEN) on a machine with network; what was converted is kept",
        ) from None


def open_hub(repository: str) -> Any:
    """Return a client that is logged in; called before hours of conversion, not after.

    Raises:
        OctoError: huggingface_hub is not installed, there is no network, or no token.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise OctoError("--push needs huggingface_hub", where=repository, hint="pip install huggingface_hub") from None
    with _explained(repository):
        api = HfApi(library_name="megatron_octo")
        api.whoami()
        return api


def push(api: Any, directory: Path, repository: str, private: bool) -> str:
    """Upload a model directory without the files that the Hub has; returns the address of the commit.

    Raises:
        OctoError: the Hub refused, or the connection broke.
    """
    with _explained(repository):
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=directory,
            commit_message="Weights, configuration, tokenizer and model card",
        )
    return str(commit.commit_url)
