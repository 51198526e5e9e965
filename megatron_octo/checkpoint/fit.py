"""Checks that a checkpoint belongs to the run that starts from it, from its manifest alone."""

from pathlib import Path

from megatron_octo.checkpoint.directory import Manifest
from megatron_octo.common.errors import OctoError
from megatron_octo.config.model import LoraConfig, ModelConfig

# Keys that may differ: they are not in the weights, or do not change the function.
FREE_KEYS = {"hidden_dropout", "attention_dropout", "init_std", "vocab_multiple"}


def check_shape(ours: ModelConfig, theirs: ModelConfig, where: Path) -> None:
    """Compare the recipe's model with a checkpoint's.

    Raises:
        OctoError: their parameters differ.
    """
    mine, other = ours.model_dump(exclude=FREE_KEYS), theirs.model_dump(exclude=FREE_KEYS)
    differing = [f"{key} {other[key]} (recipe: {mine[key]})" for key in mine if mine[key] != other[key]]
    if ours.padded_vocab_size != theirs.padded_vocab_size and not differing:
        differing = [f"padded vocabulary {theirs.padded_vocab_size} (recipe: {ours.padded_vocab_size})"]
    if differing:
        raise OctoError(
            "the checkpoint is of another model: " + ", ".join(differing),
            where=where,
            hint="use a recipe with the checkpoint's model section, or another run_dir or checkpoint.init_from",
        )


def check_adapters(ours: LoraConfig | None, theirs: LoraConfig | None, where: Path) -> None:
    """Compare the recipe's adapters with those of the run's checkpoint.

    Raises:
        OctoError: they differ, or only one of both has any.
    """
    mine, other = (lora.model_dump(exclude={"dropout"}) if lora else None for lora in (ours, theirs))
    if mine != other:
        raise OctoError(
            f"the run's adapters are {other or 'none'}, the recipe's {mine or 'none'}",
            where=where,
            hint="restore the recipe's lora section, or start a new run_dir",
        )


def check_fit(manifest: Manifest, model: ModelConfig, tokenizer: str | None, where: Path) -> None:
    """Compare a checkpoint's shape and tokenizer with the recipe's model and the data's tokenizer (None: unknown).

    Raises:
        OctoError: one of them differs.
    """
    check_shape(model, manifest.model, where)
    if manifest.tokenizer and tokenizer and manifest.tokenizer != tokenizer:
        raise OctoError(
            "the checkpoint was trained with another tokenizer than the data",
            where=where,
            hint="preprocess the data with the checkpoint's tokenizer.json",
        )


def check_complete(manifest: Manifest, where: Path) -> None:
    """Check that a checkpoint holds the optimizer's state.

    Raises:
        OctoError: it holds weights only.
    """
    if not any(manifest.tensors.get(kind) for kind in manifest.tensors if kind not in ("weights", "main")):
        raise OctoError(
            "this checkpoint holds weights only, there is nothing to resume",
            where=where,
            hint="name it in checkpoint.init_from",
        )
