"""megatron_octo: from a jsonl of code edits to a Hugging Face checkpoint, on Megatron-core."""

from megatron_octo import _moved

__version__ = "0.1.0"

_moved.install()
