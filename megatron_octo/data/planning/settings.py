"""How documents become rows: everything that a plan depends on, next to the data."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, get_args

from megatron_octo.config.sections import DataConfig, TrainConfig
from megatron_octo.recipe.schema import Recipe

OVERLONG = get_args(DataConfig.model_fields["overlong"].annotation)
_LOSS_ON = get_args(TrainConfig.model_fields["loss_on"].annotation)
_RULES = ("seq_length", "overlong", "loss_on", "norm_target_loss")


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
        if self.overlong not in OVERLONG or self.loss_on not in _LOSS_ON:
            raise ValueError(f"overlong={self.overlong!r}, loss_on={self.loss_on!r}")

    @classmethod
    def from_recipe(cls, recipe: Recipe, cache_dir: Path, fim_rate: float) -> Self:
        """Take the settings of a run, with the ``fim_rate`` of one of its groups."""
        return cls(
            seq_length=recipe.data.seq_length,
            seed=recipe.train.seed,
            cache_dir=cache_dir,
            overlong=recipe.data.overlong,
            loss_on=recipe.train.loss_on,
            norm_target_loss=recipe.train.norm_target_loss,
            fim_rate=fim_rate,
            fim_spm_rate=recipe.data.fim_spm_rate,
            tokenizer=recipe.data.tokenizer,
        )

    def rules(self) -> dict[str, Any]:
        """Return what decides the pieces of documents: a part of every plan's key."""
        return {name: getattr(self, name) for name in _RULES}

    def to_json(self) -> dict[str, Any]:
        """Return keyword arguments that mean the same in any working directory."""
        tokenizer = str(Path(self.tokenizer).absolute()) if self.tokenizer else None
        return {**asdict(self), "cache_dir": str(Path(self.cache_dir).absolute()), "tokenizer": tokenizer}
