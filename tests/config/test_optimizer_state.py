"""The list of an optimizer's state decides what is stored and how large it is."""

from pathlib import Path

from megatron_octo.architectures.parameters import count_parameters
from megatron_octo.checkpoint import directory as layout
from megatron_octo.config.optimizer_state import state_bytes, state_kinds
from megatron_octo.recipe.loading import load_recipe
from megatron_octo.sizing.checkpoint_size import checkpoint_bytes
from tests.training.runs import TestRun


def test_a_checkpoint_holds_what_is_listed(tmp_path: Path, corpus: Path) -> None:
    run = TestRun(tmp_path, corpus, checkpoint={"interval": 1}, train={"steps": 1, "precision": "bf16"})
    run.train(1, "schedule.decay_steps=6")
    recipe = load_recipe(run.recipe)
    manifest = layout.read_manifest(run.step(1))
    kinds = state_kinds(recipe.optimizer.state_dtype)
    assert list(manifest.tensors) == [*(kind.name for kind in kinds), "main", "weights"]
    parameters = count_parameters(recipe.model, padded=True)
    size = sum(record["bytes"] for record in manifest.files.values())
    expected = checkpoint_bytes(recipe.model, recipe.compute)
    assert expected == 4 * parameters + state_bytes("fp32", parameters)
    assert expected < size < 1.1 * expected + 50_000  # headers and random states besides


def test_bytes_follow_from_kinds() -> None:
    assert (state_bytes("fp32"), state_bytes("bf16"), state_bytes("bf16", 10)) == (8, 4, 40)
    assert [kind.elements(7) for kind in state_kinds("fp32")] == [7, 7]
