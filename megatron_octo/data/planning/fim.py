"""Fill in the middle, as SantaCoder and StarCoder were pretrained: a document in another order, nothing lost.

    PSM  <prefix> prefix <suffix> suffix <middle> middle
    SPM  <prefix> <suffix> suffix <middle> prefix middle

The document is cut between tokens, so that the joined pieces are its tokens, and the plan knows its new length from
the old one: three more. Which documents, which order and where to cut follow from a hash of (seed, epoch, document):
a restart, the number of processes and the packing change nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from megatron_octo.common.errors import OctoError
from megatron_octo.common.splitmix import GOLDEN, finalize

GROWTH = 3  # control tokens per document
# Prefix, suffix, middle as known tokenizers spell them.
SPELLINGS = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen, CodeGemma
    ("<|fim_begin|>", "<|fim_hole|>", "<|fim_end|>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek  # noqa: RUF001
    ("<PRE>", "<SUF>", "<MID>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
    ("[PREFIX]", "[SUFFIX]", "[MIDDLE]"),  # Codestral
)


@dataclass(frozen=True)
class FimTokens:
    """Ids of the control tokens, and of the end of the document."""

    prefix: int
    suffix: int
    middle: int
    eod: int


def find_tokens(control: Mapping[str, int], eod: int, where: str) -> FimTokens:
    """Find the ids of the control tokens, in any of the known spellings.

    Raises:
        OctoError: it has none of the known ones.
    """
    for names in SPELLINGS:
        if all(name in control for name in names):
            prefix, suffix, middle = (control[name] for name in names)
            return FimTokens(prefix, suffix, middle, eod)
    raise OctoError(
        "no tokens for fill in the middle; known are " + ", ".join(names[0] for names in SPELLINGS),
        where=where,
        hint="set data.fim_rate to 0, or use a tokenizer that has them",
    )


def control_tokens(path: str | Path) -> dict[str, int]:
    """Read the added tokens of a tokenizer.json with their ids.

    Raises:
        OctoError: the file is missing or no tokenizer.
    """
    try:
        content = json.loads(Path(path).read_bytes())
        return {token["content"]: token["id"] for token in content["added_tokens"]}
    except (ValueError, KeyError, TypeError):
        raise OctoError("not a tokenizer.json of Hugging Face", where=path) from None


@dataclass(frozen=True)
class Fim:
    """Fill in the middle for the documents of one data set in one epoch.

    Args:
        rate: share of the documents that are put in another order.
        spm_rate: share of these that come suffix first.
        tokens: ids.
        key: names the stream: seed, epoch, data set.
    """

    rate: float
    spm_rate: float
    tokens: FimTokens
    key: tuple[str | int, ...]

    def _words(self, documents: NDArray[np.int64], draw: int) -> NDArray[np.uint64]:
        """Return random 64-bit numbers, one per document, uint64 [D]; others for each draw."""
        name = xxhash.xxh3_64("/".join(map(str, (*self.key, "fim", draw))).encode()).intdigest()
        return finalize(finalize(documents.astype(np.uint64) * np.uint64(GOLDEN) + np.uint64(name)) ^ np.uint64(name))

    def chosen(self, documents: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Choose which of ``documents`` (int64 [D]) are reordered, bool [D]."""
        if self.rate >= 1:
            return np.ones(len(documents), bool)
        return self._words(documents, 0) < np.uint64(int(self.rate * 2**64))

    def apply(self, ids: NDArray[np.integer], document: int) -> NDArray[np.integer]:
        """Reorder the tokens of a chosen document, [n + 3]; its end token stays at the end."""
        numbers = np.array([document])
        spm, *draws = (int(self._words(numbers, draw)[0]) for draw in (1, 2, 3))
        end = len(ids) - int(len(ids) > 0 and ids[-1] == self.tokens.eod)
        first, second = sorted((draw * (end + 1)) >> 64 for draw in draws)
        prefix, middle, suffix = ids[:first], ids[first:second], ids[second:end]
        mark_prefix, mark_suffix, mark_middle = (
            np.array([token], ids.dtype) for token in (self.tokens.prefix, self.tokens.suffix, self.tokens.middle)
        )
        if spm < int(self.spm_rate * 2**64):
            parts = [mark_prefix, mark_suffix, suffix, mark_middle, prefix, middle]
        else:
            parts = [mark_prefix, prefix, mark_suffix, suffix, mark_middle, middle]
        return np.concatenate([*parts, ids[end:]])


def rejoin(ids: NDArray[np.integer], tokens: FimTokens) -> NDArray[np.integer]:
    """Undo :meth:`Fim.apply`; a document that was not reordered is returned as it is.

    Only for documents whose own text holds none of the three tokens, as all do that preprocess encodes.
    """
    if not len(ids) or ids[0] != tokens.prefix:
        return ids
    end = len(ids) - int(ids[-1] == tokens.eod)
    suffix = int(np.argmax(ids == tokens.suffix))
    middle = int(np.argmax(ids == tokens.middle))
    return np.concatenate([ids[1:suffix], ids[middle + 1 : end], ids[suffix + 1 : middle], ids[end:]])
