"""What the original asks of a row for each model: languages, tokens, columns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from megatron_octo.commits.filters.subject import Look, word_lists
from megatron_octo.commits.rows import Row

ModelName = Literal["starcoder", "santacoder", "bloomz", "codegeex"]
_EOD = "<|endoftext|>"


@dataclass(frozen=True)
class Model:
    """A variant.

    Attributes:
        name: as in the original.
        tokenizer: the one that the original takes, on the hub.
        lowest: least number of tokens.
        highest: greatest number of tokens.
        texts: the texts that are counted, between which :attr:`ends` stand.
        ends: number of end-of-document tokens.
        message: whether the column ``message`` is kept.
        pairs: whether ``inputs`` and ``targets`` are added.
    """

    name: ModelName
    tokenizer: str
    lowest: int
    highest: int
    texts: Callable[[Look], list[str]]
    ends: int
    message: bool = True
    pairs: bool = False

    @property
    def languages(self) -> frozenset[str] | None:
        """Slugs of the languages whose rows it takes; None for all."""
        found = word_lists()["languages"].get(self.name)
        return frozenset(found) if found else None

    def finish(self, row: Row) -> None:
        """Set the columns that the original writes for this model."""
        if not self.message:
            row.message = ""
        if self.pairs:
            row.signals["inputs"] = f"{row.old_contents or ''}\n\n{row.subject}"
            row.signals["targets"] = f"\n{row.new_contents or ''}"

    def whole(self, look: Look) -> str:
        """Return the text whose tokens the original counts, with ends spelled out."""
        texts = self.texts(look)
        if self.ends == len(texts):
            return "".join(_EOD + text for text in texts)
        return (_EOD if self.ends else "").join(texts)


def _contents(look: Look) -> list[str]:
    return [look.old, look.new]


def _all(look: Look) -> list[str]:
    return [look.old, look.subject, look.new]


def _joined(look: Look) -> list[str]:
    return [look.old + look.subject + look.new]


def _spaced(look: Look) -> list[str]:
    return [f"{look.old}\n\n{look.subject}\n{look.new}"]


MODELS: dict[str, Model] = {
    each.name: each
    for each in (
        Model("starcoder", "bigcode/starcoder", 50, 768, _contents, 1),
        Model("santacoder", "bigcode/santacoder", 0, 2048, _all, 3, message=False),
        Model("bloomz", "bigscience/bloomz-7b1", 0, 2048, _spaced, 0, pairs=True),
        Model("codegeex", "gpt2", 0, 2048, _joined, 0, message=False),
    )
}
