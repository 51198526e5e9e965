"""Models from Hugging Face directories, checkpoints and runs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, T5Config, T5ForConditionalGeneration

from megatron_octo.checkpoint.directory import find_checkpoint
from megatron_octo.common.errors import OctoError
from megatron_octo.conversion.writers.to_hf import to_hf
from megatron_octo.evaluation.generation.batches import Request
from megatron_octo.evaluation.generation.engine import Engine
from megatron_octo.evaluation.generation.open_model import hugging_face_directory, model_digest, open_model
from megatron_octo.recipe.loading import build_recipe
from tests.conftest import VOCABULARY, recipe_tree, write_corpus
from tests.conversion.models import from_hf
from tests.conversion.writers.test_to_hf import TOKENS, train_and_read
from tests.distributed import run_ranks
from tests.evaluation.generation.tiny import write_model, write_tokenizer


def logits(folder: Path) -> torch.Tensor:
    network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        found: torch.Tensor = network(TOKENS[None]).logits[0]
    return found


def test_a_checkpoint_is_exported_once(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "hf", "gpt_bigcode")
    assert hugging_face_directory(folder, tmp_path / "exports") == folder
    assert not (tmp_path / "exports").exists()
    from_hf(folder, tmp_path / "checkpoint")
    export = hugging_face_directory(tmp_path / "checkpoint", tmp_path / "exports")
    assert export.parent == tmp_path / "exports"
    model = open_model(export, "cpu", None)
    assert (model.device, model.end_ids, model.longest) == ("cpu", (0,), 512)
    assert model.network.dtype == torch.float32
    prompt = tuple(model.tokenizer("def f(x):")["input_ids"])
    answers = [
        next(Engine(each, 0.0, 1.0, 1, lambda key, text: None).run([Request(0, prompt, 0, 20)])).tokens
        for each in (model, open_model(folder, "cpu", None))
    ]
    assert answers[0] == answers[1]
    before = {path.name: path.stat().st_mtime_ns for path in export.iterdir()}
    assert hugging_face_directory(tmp_path / "checkpoint", tmp_path / "exports") == export
    assert {path.name: path.stat().st_mtime_ns for path in export.iterdir()} == before


@pytest.mark.slow
@pytest.mark.distributed
def test_the_newest_checkpoint_of_a_run_with_its_adapters(tmp_path: Path) -> None:
    write_model(tmp_path / "hf", "gpt_bigcode", size=VOCABULARY)
    model = from_hf(tmp_path / "hf", tmp_path / "base")
    targets = ["self_attention.linear_qkv", "mlp.linear_fc2"]
    tree = recipe_tree(
        write_corpus(tmp_path / "corpus"),
        tmp_path / "run",
        model=model.model_dump(),
        lora={"rank": 4, "alpha": 6, "dropout": 0.0, "target_modules": targets},
        checkpoint={"init_from": str(tmp_path / "base")},
        optimizer={"lr": 3e-2},
    )
    run_ranks(1, train_and_read, build_recipe(tree))
    export = hugging_face_directory(tmp_path / "run", tmp_path / "exports")
    to_hf(find_checkpoint(tmp_path / "run"), tmp_path / "merged")
    assert logits(export).equal(logits(tmp_path / "merged"))
    assert not torch.allclose(logits(export), logits(tmp_path / "hf"), atol=1e-3)


def test_the_digest_follows_weights_and_not_cards(tmp_path: Path) -> None:
    one, same = (write_model(tmp_path / name, "starcoder2") for name in ("one", "same"))
    (same / "README.md").write_text("a card")
    assert model_digest(one) == model_digest(same)
    assert model_digest(one) != model_digest(write_model(tmp_path / "other", "starcoder2", seed=1))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OctoError, match="no such directory"):
        hugging_face_directory(tmp_path / "none", tmp_path)
    with pytest.raises(OctoError, match="no checkpoint here"):
        hugging_face_directory(tmp_path, tmp_path / "exports")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(OctoError, match="transformers cannot open it"):
        open_model(tmp_path, "cpu", None)


def test_code_of_a_directory_never_runs(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "gpt_bigcode")
    config = (folder / "config.json").read_text().rstrip().rstrip("}").rstrip()
    names = '"auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Model"}, "model_type": "own"'
    (folder / "config.json").write_text(f"{config}, {names}}}")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(OctoError, match="transformers cannot open it"):
        open_model(folder, "cpu", None)
    assert not (tmp_path / "ran").exists()


def test_models_with_an_encoder_are_refused(tmp_path: Path) -> None:
    size = write_tokenizer(tmp_path)
    T5ForConditionalGeneration(
        T5Config(vocab_size=size, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    ).save_pretrained(tmp_path)
    with pytest.raises(OctoError, match="encoder-decoder"):
        open_model(tmp_path, "cpu", None)
