"""Behaviour on malformed files: each is named, with exit code 2, and no result is left."""

import json
import re
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_octo.common.files import digest_json
from megatron_octo.conversion.readers.formats import read_hf_config
from megatron_octo.conversion.readers.open_weights import open_weights
from megatron_octo.conversion.writers.to_bigcode import to_bigcode
from megatron_octo.conversion.writers.to_checkpoint import write_checkpoint
from megatron_octo.conversion.writers.to_hf import to_hf
from tests.conversion.commands import assert_refused, run
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


def many_times(tree: dict[str, Any]) -> None:
    node: dict[str, Any] = {"x": 1}
    for _ in range(60):
        node = {"a": node, "b": node}
    tree["model"]["language_model"]["more"] = node


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
        (many_times, "or too much"),
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
        ("starcoder2", {"rope_parameters": ["default"]}, "rope_parameters .* not a mapping"),
        ("starcoder2", {"rope_parameters": {"rope_theta": [1]}}, "bad configuration"),
        (
            "starcoder2",
            {"rope_scaling": {"type": "linear", "factor": 4.0}},
            "rope_parameters .* and rope_scaling .* differ",
        ),
        (
            "starcoder2",
            {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
            "'linear'",
        ),
        (
            "starcoder2",
            {"rope_parameters": {"rope_theta": 5e3}},
            "rope_theta is 10000.0 and, in rope_parameters, 5000.0",
        ),
        (
            "starcoder2",
            {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
            "unknown key 'full_attention'",
        ),
        ("starcoder2", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        (
            "starcoder2",
            {"embedding_dropout": 0.1},
            "embedding_dropout 0.1 .* the value of residual_dropout, 0.0",
        ),
        ("starcoder2", {"layer_norm_epsilon": 1e-6}, "the value of norm_epsilon"),
        ("starcoder2", {"use_sliding_window": True}, "unknown key 'use_sliding_window'"),
        ("starcoder2", {"layer_types": ["full_attention"] * 4}, "unknown key 'layer_types'"),
        ("plain", {"embd_pdrop": 0.1}, "embd_pdrop 0.1 .* the value of resid_pdrop, 0.0"),
        ("plain", {"quantization_config": {"bits": 4}}, "unknown key 'quantization_config'"),
        ("plain", {"auto_map": {"AutoModel": "x.Y"}, "zzz": 1}, r"unknown key 'auto_map' \(and 1 more\)"),
        ("plain", {"is_encoder_decoder": True}, "is_encoder_decoder True is not supported"),
        ("plain", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ("plain", {"hidden_size": 64}, "n_embd 32 and hidden_size 64 are one key"),
        ("plain", {"num_key_value_heads": 4}, "num_key_value_heads 4, multi_query says 1"),
        ("plain", {"layer_norm_epsilon": float("inf")}, "layernorm_epsilon"),
        ("plain", {"n_layer": 10**9}, "num_layers"),
        ("plain", {"n_layer": 1e9}, "num_layers"),
        (
            "starcoder2",
            {"num_attention_heads": 1 << 30, "num_key_value_heads": 1 << 30},
            "num_attention_heads",
        ),
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


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer.json", "conversion.json"])
def test_deep_json(file: str, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder / "plain", tmp_path / "hf")
    for text in ("[" * 200_000, '{"a":' * 200_000):
        (tmp_path / "hf" / file).write_text(text)
        assert_refused(capfd, r"not valid JSON|not a tokenizer", "to-hf", tmp_path / "hf", tmp_path / "out")


@pytest.mark.parametrize("beside", ["plain", "starcoder2"])
def test_missing_dropouts_are_those_of_transformers(beside: str, folder: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig

    shutil.copytree(folder / beside, tmp_path / "hf")
    path = tmp_path / "hf/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in config.items() if "drop" not in key}))
    theirs, ours = AutoConfig.from_pretrained(tmp_path / "hf"), read_hf_config(path)
    names = ("resid_pdrop", "attn_pdrop") if beside == "plain" else ("residual_dropout", "attention_dropout")
    assert (ours.hidden_dropout, ours.attention_dropout) == tuple(getattr(theirs, name) for name in names)


def test_other_spellings_are_read(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    config = json.loads((folder / "plain/config.json").read_text())
    expected = read_hf_config(folder / "plain/config.json")
    path.write_text(
        json.dumps({{"n_embd": "hidden_size", "n_head": "num_attention_heads"}.get(k, k): v for k, v in config.items()})
    )
    assert read_hf_config(path) == expected


def overlap(header: dict[str, Any]) -> None:
    names = [name for name in header if header[name]["data_offsets"][1] == 128 + header[name]["data_offsets"][0]]
    header[names[0]]["data_offsets"] = header[names[1]]["data_offsets"]


def rename(header: dict[str, Any]) -> None:
    header["\x1b[2J"] = header.pop("transformer.ln_f.bias")


def hole(header: dict[str, Any]) -> None:
    del header["transformer.ln_f.bias"]


@pytest.mark.parametrize(("change", "words"), [(overlap, "overlaps"), (hole, "gap|describes"), (rename, "unexpected")])
def test_a_header(
    change: Callable[[dict[str, Any]], None],
    words: str,
    folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """What the safetensors library refuses is refused, and no name reaches a terminal as it is."""
    shutil.copytree(folder / "plain", tmp_path / "hf")
    file = tmp_path / "hf/model.safetensors"
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header.pop("__metadata__")
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    code, _, error = run(capfd, "from-hf", tmp_path / "hf", tmp_path / "out")
    assert code == 2 and re.search(words, error) and error.replace("\n", "").isprintable(), error


def test_a_name_twice(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder / "plain", tmp_path / "hf")
    file = tmp_path / "hf/model.safetensors"
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    text = data[8:end].rstrip()[:-1] + b',"transformer.ln_f.bias":{"dtype":"F32","shape":[32],"data_offsets":[0,128]}}'
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    assert_refused(capfd, "'transformer.ln_f.bias' is there twice", "from-hf", tmp_path / "hf", tmp_path / "out")


@pytest.mark.parametrize("damage", ["missing", "shape", "dtype", "file", "negative", "key"])
def test_a_manifest_with_its_digest(
    damage: str, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever makes a manifest makes its digest, too."""
    write_checkpoint(open_weights(folder / "plain"), tmp_path / "ckpt", tensor=2)
    path = tmp_path / "ckpt/manifest.json"
    tree = json.loads(path.read_text())
    del tree["digest"]
    name = "decoder.layers.1.mlp.linear_fc1.bias"
    entries = tree["tensors"]["weights"]
    if damage == "missing":
        del entries[name]
    elif damage == "key":
        tree["\x1b[2J"] = 1
    elif damage == "shape":
        entries[name]["shape"] = [1]
    elif damage == "dtype":
        entries[name]["dtype"] = "F31"
    elif damage == "file":
        entries[name]["fragments"][0]["file"] = {}
    else:
        entries[name]["fragments"][0]["offset"] = [-1]
    path.write_text(json.dumps({**tree, "digest": digest_json(tree)}))
    for command in ("to-hf", "reshard"):
        code, _, error = run(capfd, command, tmp_path / "ckpt", tmp_path / "out")
        assert code == 2 and "Traceback" not in error and error.replace("\n", "").isprintable(), error
        assert re.search(r"damaged checkpoint|broken checkpoint manifest", error), error


@pytest.mark.parametrize("file", [None, 3, "", "../hf/x", "a\0b", "x" * 300])
def test_an_index(file: Any, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder / "hf", tmp_path / "hf")
    (tmp_path / "hf/conversion.json").unlink()
    path = tmp_path / "hf/model.safetensors.index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({"weight_map": dict.fromkeys(index["weight_map"], file)}))
    assert_refused(capfd, "no weight_map of file names", "from-hf", tmp_path / "hf", tmp_path / "out")
