"""Opens the data of a run, and refuses data sets, tokenizers and vocabularies that do not belong together."""

from dataclasses import dataclass, field
from pathlib import Path

from megatron_octo.common.files import digest_file
from megatron_octo.data.planning.paths import Group, read_groups
from megatron_octo.data.row_stream import RowStream, open_rows
from megatron_octo.model.platform.grid import Grid
from megatron_octo.recipe.schema import Recipe
from megatron_octo.runfiles.run_directory import RunDirectory
from megatron_octo.training.readiness.data_files import check_vocabulary, training_group


@dataclass(frozen=True)
class Corpora:
    """Training rows and validation rows by name.

    Attributes:
        tokenizer: digest of the data's tokenizer.json, None if it is not known.
        prefixes: of all data sets.
    """

    train: RowStream
    valid: dict[str, RowStream] = field(default_factory=dict)
    tokenizer: str | None = None
    prefixes: frozenset[str] = frozenset()

    @property
    def digest(self) -> str:
        """Digest of the training data and of all that its rows depend on."""
        return self.train.corpora_digest

    def describe(self, recipe: Recipe) -> list[str]:
        """Return a line for the log per group of data sets."""
        lines = []
        for name, stream in {"train": self.train, **self.valid}.items():
            counts = stream.summary(0)
            shown = ", ".join(f"{key} {value:,}" for key, value in counts.items() if key != "fill" and value)
            lines.append(f"{name}: rows of {recipe.data.seq_length}, fill {counts['fill']:.3%}, {shown}")
        return lines


def open_corpora(recipe: Recipe, run: RunDirectory, grid: Grid) -> Corpora:
    """Open training and validation data and plan their first epoch. Collective: rank 0 plans, the others read it.

    Raises:
        OctoError: a data set is missing or damaged, or does not fit the tokenizer or vocabulary.
    """
    groups = training_group(recipe)
    cache = Path(recipe.data.plan_cache or run.path / "plans")

    def open_stream(group: Group, fim_rate: float = 0.0) -> RowStream:
        return grid.main_first(lambda: open_rows(recipe, group, fim_rate, cache))

    # Validation reads documents as they are, so that its losses can be compared whatever training does to them.
    train = open_stream(groups[0], recipe.data.fim_rate)
    valid = {group.name: open_stream(group) for group in read_groups(recipe.data.valid)} if recipe.data.valid else {}
    tokenizer = digest_file(recipe.data.tokenizer) if recipe.data.tokenizer else None
    for stream in (train, *valid.values()):
        check_vocabulary(recipe, tokenizer, stream.tokenizer_digest, stream.vocab_size)
    grid.main_first(lambda: run.check_tokenizer(recipe.data.tokenizer))
    every = [*groups, *(read_groups(recipe.data.valid) if recipe.data.valid else ())]
    prefixes = frozenset(str(source.prefix) for group in every for source in group.sources)
    return Corpora(train, valid, tokenizer or train.tokenizer_digest, prefixes)
