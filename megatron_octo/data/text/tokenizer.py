"""Tokenizer of a data set: text is text, and control tokens come only from the format."""

import importlib.metadata
import json
import os
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_file
from megatron_octo.common.ragged import interleave
from megatron_octo.data.text.fast_tokenizer import LIBRARY, FastPath
from megatron_octo.data.text.fitness import splits_as_gpt2, unfit
from megatron_octo.data.text.inexpressible import LossFinder
from megatron_octo.data.text.long_texts import LONG, LongTexts
from megatron_octo.data.text.sentencepiece_model import SentencePiece

# Rows are spread over processes: threads inside each would only fight for the same cores.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tokenizers import Tokenizer as _Tokenizer

EOD_SPELLINGS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "<EOD>", "[EOS]")
Backend = Literal["auto", "tokie", "reference"]


class Tokenizer:
    """A ``tokenizer.json`` of Hugging Face, or a ``.model`` of sentencepiece.

    Args:
        path: the file.
        eod_token: spelling of the end of a document; by default the one known spelling that the
            vocabulary has, and ``<|endoftext|>`` before any other.
        control_text: read control tokens that are spelled out in the data as control tokens. By
            default they are plain text, so that no row can end a document or open a commit.
        backend: ``reference`` is the library that defines the result; ``tokie`` the fast path for all
            that it is known to do alike; ``auto`` that one where it is installed and fits.
        proven: skip the decision whether the fast path fits: another process has found that it does.

    Attributes:
        digest: of the file.
        vocab_size: largest id + 1, added tokens included.
        eod_id, eod_token: the end of a document.
        control: texts of the special tokens.
        fast: the fast path, None without one; ``why_not`` then says why.
        loses: whether a text has characters that the vocabulary cannot express: they are not in its ids.

    Raises:
        OctoError: the file is missing or no tokenizer, it has no clear end of document, or the
            fast path was asked for and does not fit.
    """

    def __init__(
        self,
        path: str | Path,
        eod_token: str | None = None,
        control_text: bool = False,
        backend: Backend = "reference",
        proven: bool = False,
    ):
        self.path = str(path)
        if Path(path).exists() and not Path(path).is_file():  # reading a pipe would never end
            raise OctoError("not a file", where=self.path)
        self.digest = digest_file(path)
        self._tokenizer: Any = self._open()
        self._tokenizer.encode_special_tokens = not control_text
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        added = self._tokenizer.get_added_tokens_decoder().values()
        self.control = tuple(token.content for token in added if token.special)
        self._spelled = re.compile("|".join(map(re.escape, self.control)) or r"(?!)")
        self.eod_token = eod_token or self._find_eod(vocabulary)
        self.eod_id = self.control_id(self.eod_token, "the end of a document")
        self.fast, self.why_not = self._open_fast(backend, proven)
        description = {} if self.is_sentencepiece else self._description()
        self.loses = LossFinder(description)
        self._long: LongTexts | None = None
        if description and splits_as_gpt2(description) and description["model"].get("type") == "BPE":
            self._long = LongTexts(description, self._tokenizer, self._encode_flat, self.fast is not None)

    @property
    def is_sentencepiece(self) -> bool:
        """Whether the file is a sentencepiece model."""
        return Path(self.path).suffix == ".model"

    def _open(self) -> Any:
        if self.is_sentencepiece:
            return SentencePiece(self.path)
        try:
            tokenizer = _Tokenizer.from_file(self.path)
        except BaseException as error:  # the binding raises bare Exception, and a BaseException of its own
            if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
                raise
            raise OctoError(
                f"not a tokenizer: {error}",
                where=self.path,
                hint="give a tokenizer.json of Hugging Face tokenizers, or a .model of sentencepiece",
            ) from None
        tokenizer.no_truncation()  # a limit saved with the tokenizer would cut documents silently
        tokenizer.no_padding()
        return tokenizer

    @staticmethod
    def vocabulary(path: str | Path) -> dict[str, int]:
        """Return token -> id of a tokenizer.json, added tokens included; empty if it is not one."""
        try:
            found: dict[str, int] = _Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
        except Exception:  # the binding raises bare Exception
            return {}
        return found

    def _description(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(Path(self.path).read_bytes())
        return found

    def _open_fast(self, backend: Backend, proven: bool) -> tuple[FastPath | None, str]:
        if backend == "reference":
            return None, "the reference was asked for"
        try:
            if self.is_sentencepiece:
                raise ValueError("it is a sentencepiece model")
            description = self._description()
            if not proven and (reason := unfit(description)):
                raise ValueError(reason)
            return FastPath(description), ""
        except ImportError:
            why_not, hint = f"{LIBRARY} is not installed", "pip install 'megatron-octo[fast]'"
        except ValueError as error:
            why_not, hint = str(error), "leave --tokenizer-backend out"
        if backend == "auto":
            return None, why_not
        raise OctoError(f"no fast path with {LIBRARY} for this tokenizer: {why_not}", where=self.path, hint=hint)

    @property
    def backend(self) -> str:
        """Name of the encoding library with its version, as recorded in the manifest."""
        library = "sentencepiece" if self.is_sentencepiece else "tokenizers"
        reference = f"{library} {importlib.metadata.version(library)}"
        return f"{LIBRARY} {self.fast.version}, checked by {reference}" if self.fast else reference

    def _find_eod(self, vocabulary: dict[str, int]) -> str:
        found = [token for token in EOD_SPELLINGS if token in vocabulary]
        if found[:1] == ["<|endoftext|>"] or len(found) == 1:
            return found[0]
        what = f"several tokens may end a document: {', '.join(found)}" if found else "no token that ends a document"
        raise OctoError(what, where=self.path, hint="name it with --eod-token")

    def control_id(self, token: str, purpose: str) -> int:
        """Look up the id of a control token.

        Raises:
            OctoError: the vocabulary has none.
        """
        found = self._tokenizer.token_to_id(token)
        if found is None:
            known = ", ".join(self.control[:30]) or "none"
            raise OctoError(
                f"the tokenizer has no token {token!r} ({purpose}); its control tokens: {known}",
                where=self.path,
            )
        return int(found)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode each text by the reference; nothing is added in front or behind."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_flat(self, texts: Sequence[str]) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
        """Encode all texts; returns ids end to end, uint16 or uint32 [N], and the number per text, int64 [len(texts)].

        The same ids as :meth:`encode`, by the fast path where there is one, and in parts where a text is long.
        """
        if self._long is None or all(len(text) <= LONG for text in texts):
            return self._encode_flat(texts)
        found = [self._long.encode(text) for text in texts]
        lengths = np.array([len(ids) for ids in found], np.int64)
        return (found[0] if len(found) == 1 else np.concatenate(found)), lengths

    def _encode_flat(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        if self.fast is None:
            return flatten(self.encode(texts))
        pieces = [self.fast.split(text) for text in texts]
        flat = list(chain.from_iterable(pieces))
        ids, lengths = self.fast.encode([piece for piece, slow in flat if not slow])
        slow = np.fromiter((slow for _, slow in flat), bool, len(flat))
        if slow.any():
            ids, lengths = interleave(
                slow, flatten(self.encode([piece for piece, slow in flat if slow])), (ids, lengths)
            )
        if len(flat) == len(texts):
            return ids, lengths
        firsts = np.cumsum([0, *map(len, pieces[:-1])])
        return ids, np.add.reduceat(lengths, firsts)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids; control tokens are spelled out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def holds_control(self, text: str) -> bool:
        """Return whether a text spells a control token."""
        return self._spelled.search(text) is not None


def flatten(rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Concatenate rows of ids; returns the ids, uint32 [N], and the length of each row, int64 [R]."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return np.fromiter(chain.from_iterable(rows), np.uint32, int(lengths.sum())), lengths
