"""Behaviour on malformed files: each is named, with exit code 2, and no result is left."""

import json
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_octo.conversion.readers.open_weights import open_weights
from megatron_octo.conversion.writers.to_bigcode import to_bigcode
from megatron_octo.conversion.writers.to_hf import to_hf
from tests.conversion.commands import assert_refused
from tests.conversion.models import small_model, write_hf

STARCODER2 = {"architecture": "starcoder2", "num_query_groups": 8, "rotary_base": 1e4}
EMBEDDING, SHARED = "word_embeddings", "layers.0.self_attention.key_value.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model in several formats; a test copies what it spoils."""
    folder = tmp_path_factory.mktemp("malformed")
    write_hf(folder / "plain", small_model())
    write_hf(folder / "starcoder2", small_model(**STARCODER2))
    to_hf(folder / "plain", folder / "hf", shard_bytes=80_000)
    to_bigcode(open_weights(folder / "plain"), folder / "legacy")
    to_bigcode(open_weights(folder / "plain"), folder / "legacy4", tensor=4)
    to_bigcode(open_weights(folder / "plain"), folder / "legacy22", tensor=2, pipeline=2)
    return folder


def arguments(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda tree: tree["args"].__dict__.update(changes)


def tensor(module: str, value: torch.Tensor) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        model = tree["model"]["language_model"]
        if module == SHARED:
            model["encoder"][SHARED] = value
        else:
            model["embedding"][module]["weight"] = value

    return change


def itself(tree: dict[str, Any]) -> None:
    tree["model"]["language_model"]["more"] = tree["model"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (arguments(hidden_dropout=None), "hidden_dropout None, expected a number"),
        (arguments(hidden_dropout="0.1"), "hidden_dropout '0.1', expected a number"),
        (arguments(layernorm_epsilon=float("nan")), "layernorm_epsilon nan"),
        (arguments(init_method_std=10**400), "init_method_std"),
        (arguments(attention_dropout=torch.ones(3)), "attention_dropout"),
        (arguments(num_layers=torch.ones(3)), "num_layers"),
        (arguments(true_vocab_size=5000), "vocabulary 5000 does not fit 1024 rows"),
        (tensor(EMBEDDING, torch.zeros(32)), r"word_embeddings.weight is \[32\], expected a matrix"),
        (tensor(EMBEDDING, torch.zeros(0, 32)), r"word_embeddings.weight is \[0, 32\]"),
        (tensor("position_embeddings", torch.zeros(24)), "position_embeddings.weight is"),
        (tensor(SHARED, torch.zeros(0, 32)), r"key_value.weight is \[0, 32\]"),
        (tensor(SHARED, torch.eye(8).to_sparse()), "not stored as one piece"),
        (itself, "holds itself"),
        (lambda tree: tree.update(model=[]), "no 'model'"),
        (lambda tree: tree.update(args=3, model={}), "not a multi-query GPT"),
    ],
)
def test_a_bigcode_file(
    change: Callable[[dict[str, Any]], None],
    words: str,
    folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(folder / "legacy", tmp_path / "legacy")
    (file,) = (tmp_path / "legacy").rglob("*.pt")
    tree = torch.load(file, weights_only=False)
    assert isinstance(tree["args"], Namespace)
    change(tree)
    torch.save(tree, file)
    assert_refused(capfd, words, "from-bigcode", tmp_path / "legacy", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["legacy"]


@pytest.mark.parametrize(
    ("source", "gone", "words"),
    [
        ("legacy4", ["mp_rank_03"], r"1 of 4 ranks .* \(mp_rank_03\)"),
        ("legacy4", ["mp_rank_01", "mp_rank_02", "mp_rank_03"], r"3 of 4 ranks .* \(mp_rank_01\)"),
        ("legacy22", ["mp_rank_00_001", "mp_rank_01_001"], r"2 of 4 ranks .* \(mp_rank_00_001\)"),
        ("legacy22", ["mp_rank_01_000", "mp_rank_01_001"], r"2 of 4 ranks .* \(mp_rank_01_000\)"),
        ("legacy22", ["mp_rank_00_000"], r"1 of 4 ranks .* \(mp_rank_00_000\)"),
    ],
)
def test_ranks_that_leave_no_gap(
    source: str, gone: list[str], words: str, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / source, tmp_path / "legacy")
    for name in gone:
        shutil.rmtree(tmp_path / "legacy/release" / name)
    assert_refused(capfd, words, "to-hf", tmp_path / "legacy", tmp_path / "out")
    assert_refused(capfd, words, "show", tmp_path / "legacy")
    assert [path.name for path in tmp_path.iterdir()] == ["legacy"]


def test_a_rank_too_many(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder / "legacy", tmp_path / "legacy")
    release = tmp_path / "legacy/release"
    shutil.copytree(release / "mp_rank_00", release / "mp_rank_01")
    words = r"arguments say tensor 1 x pipeline 1, here are 2 x 1"
    assert_refused(capfd, words, "to-hf", tmp_path / "legacy", tmp_path / "out")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"files": []}, "no digests of files here"),
        ([], "no digests of files here"),
        ({"files": {"model-00001-of-00003.safetensors": "x"}}, "no digests of files here"),
        ({"files": {"model-00001-of-00003.safetensors": {"digest": "sha9:00"}}}, "'sha9:00', known are"),
        ({"files": {"model-00001-of-00003.safetensors": {"digest": 5}}}, "'5', known are"),
        ({"files": {"model-00001-of-00003.safetensors": {"digest": ""}}}, "'', known are"),
    ],
)
def test_a_record_of_digests(
    record: Any, words: str, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "hf", tmp_path / "hf")
    (tmp_path / "hf/conversion.json").write_text(json.dumps(record))
    assert_refused(capfd, words, "from-hf", tmp_path / "hf", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize(
    ("source", "changes", "words"),
    [
        ("plain", {"model_type": ["gpt_bigcode"]}, r"architecture \['gpt_bigcode'\], expected"),
        ("plain", {"n_head": 0}, "num_attention_heads"),
        ("plain", {"n_embd": "32"}, "hidden_size"),
        ("starcoder2", {"num_attention_heads": 0}, "num_attention_heads is 0"),
        ("starcoder2", {"rope_parameters": ["default"]}, "rope_parameters .* no mapping"),
        ("starcoder2", {"rope_parameters": {"rope_theta": [1]}}, "bad configuration"),
    ],
)
def test_a_configuration(
    source: str,
    changes: dict[str, Any],
    words: str,
    folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(folder / source, tmp_path / "hf")
    config = json.loads((tmp_path / "hf/config.json").read_text())
    (tmp_path / "hf/config.json").write_text(json.dumps({**config, **changes}))
    assert_refused(capfd, words, "from-hf", tmp_path / "hf", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize("file", [None, 3, "", "../hf/x", "a\0b"])
def test_an_index(file: Any, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder / "hf", tmp_path / "hf")
    path = tmp_path / "hf/model.safetensors.index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({"weight_map": dict.fromkeys(index["weight_map"], file)}))
    assert_refused(capfd, "no weight_map of file names", "from-hf", tmp_path / "hf", tmp_path / "out")
