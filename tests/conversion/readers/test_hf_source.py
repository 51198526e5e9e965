"""A Hugging Face directory is read as transformers reads it, or refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_octo.common.errors import OctoError
from megatron_octo.conversion.readers.open_weights import open_weights
from megatron_octo.conversion.writers.to_hf import to_hf
from tests.conversion.models import Tensors, small_model, write_hf

MODEL = small_model(num_layers=2)
NORM, OURS = "transformer.ln_f.bias", "decoder.final_layernorm.bias"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    directory = tmp_path_factory.mktemp("hf") / "shards"
    return directory, write_hf(directory, MODEL, shards=3)


def test_one_file_comes_before_shards(shards: tuple[Path, Tensors], tmp_path: Path) -> None:
    """As transformers loads what it saved twice: in shards, then in one file."""
    from transformers import AutoModelForCausalLM

    shutil.copytree(shards[0], tmp_path / "hf")
    save_file(
        {name: each + 1 for name, each in shards[1].items()},
        tmp_path / "hf/model.safetensors",
        {"format": "pt"},
    )
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").state_dict()[NORM]
    assert torch.equal(open_weights(tmp_path / "hf").read(OURS), theirs)
    assert torch.equal(theirs, shards[1][NORM] + 1)


@pytest.mark.parametrize("index", ["names another file", "does not name it"])
def test_a_shard_that_holds_more_is_refused(index: str, shards: tuple[Path, Tensors], tmp_path: Path) -> None:
    """transformers loads all that shards hold: which of two tensors of a name counts would depend on an order."""
    shutil.copytree(shards[0], tmp_path / "hf")
    path = tmp_path / "hf/model.safetensors.index.json"
    file = next(each for each in sorted((tmp_path / "hf").glob("*.safetensors")) if NORM not in load_file(each))
    extra = NORM if index == "names another file" else "transformer.more"
    save_file({**load_file(file), extra: torch.zeros(32)}, file, {"format": "pt"})
    assert extra in path.read_text() or extra != NORM
    with pytest.raises(OctoError, match=r"says that .* is in|does not name"):
        open_weights(tmp_path / "hf")


def test_causal_masks_are_left_aside(shards: tuple[Path, Tensors], tmp_path: Path) -> None:
    shutil.copytree(shards[0], tmp_path / "hf")
    (tmp_path / "hf/model.safetensors.index.json").unlink()
    masks = {
        "transformer.h.0.attn.bias": torch.ones(1, 24, 24, dtype=torch.bool).tril(),
        "transformer.h.1.attn.masked_bias": torch.tensor(-1e4),
    }
    file = tmp_path / "hf/model.safetensors"
    save_file({**shards[1], **masks}, file, {"format": "pt"})
    to_hf(tmp_path / "hf", tmp_path / "out")
    found = load_file(tmp_path / "out/model.safetensors")
    assert found.keys() == shards[1].keys()
    assert all(torch.equal(found[name], each) for name, each in shards[1].items())
    save_file({**shards[1], "transformer.h.0.attn.biases": torch.ones(3)}, file, {"format": "pt"})
    with pytest.raises(OctoError, match=r"unexpected \['transformer.h.0.attn.biases'\]"):
        open_weights(tmp_path / "hf")


def test_an_adapter_beside_the_model_is_refused(shards: tuple[Path, Tensors], tmp_path: Path) -> None:
    shutil.copytree(shards[0], tmp_path / "hf")
    (tmp_path / "hf/adapter_config.json").write_text("{}")
    with pytest.raises(OctoError, match="transformers would load that adapter"):
        open_weights(tmp_path / "hf")


SMALL = ["config.json", "generation_config.json", "model.safetensors.index.json"]


@pytest.mark.parametrize("file", SMALL)
@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_damaged_parts_of_an_export(file: str, damage: str, shards: tuple[Path, Tensors], tmp_path: Path) -> None:
    to_hf(shards[0], tmp_path / "export", shard_bytes=40_000)
    path = tmp_path / "export" / file
    assert {file, *SMALL} <= json.loads((tmp_path / "export/conversion.json").read_text())["files"].keys()
    open_weights(tmp_path / "export")
    if damage == "changed":
        path.write_text(path.read_text().replace("1", "2", 1) if "1" in path.read_text() else "{ }")
    else:
        path.unlink()
    with pytest.raises(OctoError, match=r"has changed|is missing|no weights here"):
        open_weights(tmp_path / "export")


def test_weights_are_compared_without_a_stream(shards: tuple[Path, Tensors], tmp_path: Path) -> None:
    """Training reads an export block by block and compares its digests at the end."""
    to_hf(shards[0], tmp_path / "export")
    file = tmp_path / "export/model.safetensors"
    data: Any = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    source = open_weights(tmp_path / "export")
    source.read(OURS)
    with pytest.raises(OctoError, match=r"model\.safetensors has changed"):
        source.finish()
