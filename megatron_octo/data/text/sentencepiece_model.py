"""A sentencepiece ``.model``, with the few methods of a Hugging Face tokenizer that are needed here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_octo.common.errors import OctoError


@dataclass(frozen=True)
class Encoding:
    """Ids of a text."""

    ids: list[int]


@dataclass(frozen=True)
class AddedToken:
    """A control token."""

    content: str
    special: bool = True


class SentencePiece:
    """A model of the sentencepiece library (extra ``sentencepiece``).

    Control symbols in a text are text to that library. Its models may normalise text and put a space in
    front, so that decoding does not always give the text back.

    Raises:
        OctoError: the library is missing, or the file is not a model.
    """

    encode_special_tokens = True

    def __init__(self, path: str | Path):
        try:
            import sentencepiece
        except ImportError:
            raise OctoError(
                "a .model file needs the sentencepiece library",
                where=path,
                hint="pip install 'megatron-octo[sentencepiece]'",
            ) from None
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(Path(path).read_bytes())
        except RuntimeError as error:
            raise OctoError(f"not a sentencepiece model: {error}", where=path) from None

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        """Return the ids of all pieces."""
        return {self._model.IdToPiece(number): number for number in range(self._model.GetPieceSize())}

    def get_added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Return the control tokens by id."""
        control = filter(self._model.IsControl, range(self._model.GetPieceSize()))
        return {number: AddedToken(self._model.IdToPiece(number)) for number in control}

    def token_to_id(self, token: str) -> int | None:
        """Look up a piece, None without it."""
        number = self._model.PieceToId(token)
        return number if self._model.IdToPiece(number) == token else None

    def encode_batch_fast(self, texts: Sequence[str], add_special_tokens: bool = False) -> list[Encoding]:
        """Encode texts."""
        return [Encoding(ids) for ids in self._model.Encode(list(texts), num_threads=1)]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Decode ids; control tokens are spelled out, which the library itself does not do."""
        parts: list[str] = []
        run: list[int] = []
        for number in [*ids, None]:
            if number is not None and not self._model.IsControl(number):
                run.append(number)
                continue
            if run:
                parts.append(self._model.Decode(run))
                run = []
            if number is not None:
                parts.append(self._model.IdToPiece(number))
        return "".join(parts)
