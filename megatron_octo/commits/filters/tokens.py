"""The rule on the number of tokens, by the exact tokenizer behind bounds that are proven."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_octo.commits.filters.models import Model
from megatron_octo.commits.filters.rule_sets import Mode
from megatron_octo.commits.filters.subject import Look
from megatron_octo.data.text.fitness import splits_as_gpt2
from megatron_octo.data.text.tokenizer import Tokenizer

# A run begins with a letter or digit of ASCII, and takes all letters and digits of ASCII and all characters beyond it.
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9\x80-\U0010ffff]*")


class Bounds:
    """Bounds of the number of tokens of a text, without a tokenizer.

    They hold for byte-level BPE without a normalizer that splits words as GPT-2 does, and are not used for others:

    - a token holds at least one byte, so a text of B bytes has at most B tokens;
    - a token holds at most as many bytes as the longest one of the vocabulary, L, so there are at least B / L;
    - GPT-2's words never hold a letter or digit, an other ASCII character, and again a letter or digit. A token lies
      within one word, so it holds at most one run of :data:`_RUN`, and there are at least as many tokens as runs. Added
      tokens are cut out before the words: R is the greatest number of runs in one, and the runs are divided by it.

    Args:
        description: contents of a tokenizer.json.
    """

    def __init__(self, description: Mapping[str, Any]) -> None:
        model = description.get("model") or {}
        added = [str(token["content"]) for token in description.get("added_tokens") or ()]
        self.known = model.get("type") == "BPE" and splits_as_gpt2(description)
        spelled = (len(token.encode()) for token in added)  # a vocabulary's word has a character per byte
        self.longest = max((*map(len, model.get("vocab") or ()), *spelled), default=1)
        self._runs = max((len(_RUN.findall(token)) for token in added), default=1) or 1

    def at_most(self, texts: Sequence[str]) -> float:
        """Return how many tokens the texts have at most."""
        return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) if self.known else float("inf")

    def at_least(self, texts: Sequence[str], enough: int) -> int:
        """Return how many tokens the texts have at least; the count may end at ``enough``."""
        if not self.known:
            return 0
        characters = sum(map(len, texts))
        found = -(-characters // self.longest)
        if found < enough <= characters:
            found = max(found, sum(len(_RUN.findall(text)) for text in texts) // self._runs)
        return found


class TokenRule:
    """The rule of a model.

    Args:
        path: of the tokenizer.
        model: its limits and texts.
        mode: in ``octopack`` control tokens that the texts spell count as one token, as the original's tokenizer reads
            them; in ``fixed`` they are text, as in preprocessing.

    Raises:
        OctoError: the tokenizer is missing or unusable.
    """

    def __init__(self, path: str | Path, model: Model, mode: Mode) -> None:
        self._model, self._whole = model, mode == "octopack"
        self._tokenizer = Tokenizer(path, control_text=self._whole, backend="auto")
        described = not self._tokenizer.is_sentencepiece
        self._bounds = Bounds(json.loads(Path(path).read_bytes()) if described else {})

    def __call__(self, look: Look) -> str | None:
        """Return how many tokens a row has if they are too few or too many; sets the signal ``tokens`` if it counts."""
        texts, ends = self._model.texts(look), self._model.ends
        if self._bounds.at_least(texts, self._model.highest + 1) > self._model.highest:
            return f"over {self._model.highest} tokens"
        if self._bounds.at_most(texts) + ends < self._model.lowest:
            return f"under {self._model.lowest} tokens"
        count = self.count(look)
        look.row.signals["tokens"] = count
        return None if self._model.lowest <= count <= self._model.highest else f"{count} tokens"

    def count(self, look: Look) -> int:
        """Return the number of tokens of a row."""
        if self._whole:
            return int(self._tokenizer.encode_flat([self._model.whole(look)])[1].sum())
        return int(self._tokenizer.encode_flat(self._model.texts(look))[1].sum()) + self._model.ends
