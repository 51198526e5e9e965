"""How the documents of a group become rows: what a plan depends on, next to the data."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from megatron_octo.data.planning.blend import LossOn, PlanRules
from megatron_octo.data.planning.windows import OVERLONG, Overlong


@dataclass(frozen=True)
class RowSettings:
    """Settings of :class:`megatron_octo.data.row_stream.RowStream`; names are those of the recipe.

    Attributes:
        seq_length: positions in a row.
        seed: of the order in which documents and rows come.
        cache_dir: plans are kept here; processes may share it.
        overlong: what becomes of documents that are longer than a row: split, window, truncate, skip or error.
        loss_on: learn targets only, or all labels.
        norm_target_loss: the weights of each document sum to 1 over all its pieces.
        fim_rate: share of the pretraining documents that are put in the order of fill in the middle.
        fim_spm_rate: share of these that come suffix first.
        tokenizer: tokenizer.json that names the tokens of fill in the middle, for data sets whose manifest does not.

    Raises:
        ValueError: ``overlong`` or ``loss_on`` is none of these words.
    """

    seq_length: int
    seed: int
    cache_dir: str | Path
    overlong: str = "split"
    loss_on: str = "targets"
    norm_target_loss: bool = False
    fim_rate: float = 0.0
    fim_spm_rate: float = 0.0
    tokenizer: str | Path | None = None

    def __post_init__(self) -> None:
        if self.overlong not in OVERLONG or self.loss_on not in ("targets", "all"):
            raise ValueError(f"overlong={self.overlong!r}, loss_on={self.loss_on!r}")

    @property
    def rules(self) -> PlanRules:
        return PlanRules(
            self.seq_length,
            cast(Overlong, self.overlong),
            cast(LossOn, self.loss_on),
            self.norm_target_loss,
        )

    def to_json(self) -> dict[str, Any]:
        """Keyword arguments that mean the same in any working directory."""
        tokenizer = str(Path(self.tokenizer).absolute()) if self.tokenizer else None
        return {**asdict(self), "cache_dir": str(Path(self.cache_dir).absolute()), "tokenizer": tokenizer}
