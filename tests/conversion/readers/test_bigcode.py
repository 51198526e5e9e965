"""BigCode's checkpoints: read as the fork writes them, written as the fork reads them, and never run."""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from megatron_octo.common.errors import OctoError
from megatron_octo.config.model import ModelConfig
from megatron_octo.conversion.readers.bigcode_names import stage_tensors
from megatron_octo.conversion.readers.open_weights import open_weights
from megatron_octo.conversion.writers.to_bigcode import to_bigcode
from megatron_octo.conversion.writers.to_hf import to_hf
from megatron_octo.convert import main
from tests.conversion.models import Tensors, legacy_state, small_model, write_hf, write_legacy

MODEL = small_model()
LAYOUTS = [(1, 1), (2, 1), (1, 2), (4, 2), (8, 4)]


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    directory = tmp_path_factory.mktemp("bigcode") / "hf"
    return directory, write_hf(directory, MODEL)


@pytest.mark.parametrize(("tensor", "pipeline"), LAYOUTS)
def test_reads_what_the_fork_writes(hf: tuple[Path, Tensors], tensor: int, pipeline: int, tmp_path: Path) -> None:
    write_legacy(tmp_path / "legacy", hf[1], MODEL.num_layers, tensor, pipeline)
    to_hf(tmp_path / "legacy", tmp_path / "hf", vocab_size=MODEL.vocab_size)
    found = load_file(tmp_path / "hf/model.safetensors")
    assert found.keys() == hf[1].keys()
    assert all(torch.equal(found[name], hf[1][name]) for name in found)
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert (config["vocab_size"], config["initializer_range"]) == (1001, 0.01275)
    assert config["eos_token_id"] is None  # not known without a tokenizer, and not GPT-2's 50256


@pytest.mark.parametrize(("tensor", "pipeline"), LAYOUTS)
def test_writes_what_the_fork_reads(hf: tuple[Path, Tensors], tensor: int, pipeline: int, tmp_path: Path) -> None:
    """torch.load gives the tensors of the description, under its names and in its nesting."""
    out = tmp_path / "legacy"
    to_bigcode(open_weights(hf[0], stream=True), out, tensor=tensor, pipeline=pipeline)
    assert (out / "latest_checkpointed_iteration.txt").read_text() == "release"
    files = sorted(path.relative_to(out) for path in out.rglob("*.pt"))
    assert len(files) == tensor * pipeline
    for rank in range(tensor):
        for stage in range(pipeline):
            name = f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if pipeline > 1 else "")
            path = out / "release" / name / "model_optim_rng.pt"
            tree = torch.load(path, weights_only=False, mmap=True)
            assert tree["checkpoint_version"] == 3.0 and tree["args"].attention_head_type == "multiquery"
            assert tree["args"].tensor_model_parallel_size == tensor
            wanted = legacy_state(hf[1], MODEL.num_layers, tensor, pipeline, rank, stage)
            model = tree["model"]
            encoder = model["language_model"]["encoder"]
            assert set(encoder) == {key[23:] for key in wanted if key.startswith("language_model.encoder.")}
            found = {f"language_model.encoder.{key}": value for key, value in encoder.items()}
            if stage == 0:
                for key, value in model["language_model"]["embedding"].items():
                    found[f"language_model.embedding.{key}.weight"] = value["weight"]
            if stage == pipeline - 1 and pipeline > 1:
                found["word_embeddings_for_head.weight"] = model["word_embeddings_for_head"]["weight"]
            assert found.keys() == wanted.keys()
            for key, value in found.items():
                real = wanted[key]
                if "word_embeddings" in key:  # the padding is zero, not the last row again
                    assert value.shape == real.shape
                    real = real[: max(0, MODEL.vocab_size - rank * real.shape[0])]
                    value, padding = value[: len(real)], value[len(real) :]
                    assert not padding.any()
                assert torch.equal(value, real), key


@pytest.mark.parametrize(
    ("sizes", "total", "fused"),
    [
        ((40, 6144, 48, 8192, 49152), 15_517_456_384, [6400, 6144]),
        ((24, 2048, 16, 2048, 49280), 1_124_886_528, [2304, 2048]),
    ],
    ids=["starcoderbase", "santacoder"],
)
def test_published_sizes(sizes: tuple[int, ...], total: int, fused: list[int]) -> None:
    """Parameter counts and shapes of the published models, from the table that reads and writes them."""
    layers, hidden, heads, positions, vocabulary = sizes
    model = ModelConfig(
        num_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        ffn_hidden_size=4 * hidden,
        max_position_embeddings=positions,
        vocab_size=vocabulary,
    )
    listed = {part.key: part for part in stage_tensors(model, vocabulary, 1)}
    assert sum(torch.Size(part.shape).numel() for part in listed.values()) == total
    query, shared = (
        listed[f"language_model.encoder.layers.0.self_attention.{name}.weight"] for name in ("query", "key_value")
    )
    assert [query.shape[0] + shared.shape[0], query.shape[1]] == fused
    assert shared.shape == (256, hidden) and shared.axis is None and query.axis == 0


def test_true_vocabulary_and_tokenizer_survive(hf: tuple[Path, Tensors], tmp_path: Path) -> None:
    to_bigcode(open_weights(hf[0]), tmp_path / "legacy", tensor=8)
    assert main(["from-bigcode", str(tmp_path / "legacy"), str(tmp_path / "ours")]) == 0
    assert open_weights(tmp_path / "ours").manifest.model.vocab_size == 1001
    # The fork itself notes nothing: all rows are real unless the caller says otherwise.
    write_legacy(tmp_path / "theirs", hf[1], MODEL.num_layers, 8, 1)
    assert open_weights(tmp_path / "theirs").manifest.model.vocab_size == 1024
    for source in ("theirs", "legacy"):
        assert open_weights(tmp_path / source, vocab_size=1000).manifest.model.vocab_size == 1000
    to_hf(tmp_path / "ours", tmp_path / "again")
    again = load_file(tmp_path / "again/model.safetensors")
    assert all(torch.equal(again[name], hf[1][name]) for name in again)


class Payload:
    """Pickled, it runs a command wherever it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_a_planted_payload_does_not_run(
    hf: tuple[Path, Tensors], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from megatron_octo.common.errors import run_command

    proof, control = tmp_path / "it-ran", tmp_path / "control"
    pickle.loads(pickle.dumps(Payload(control)))
    assert control.exists()  # it is no dud
    control.unlink()
    write_legacy(tmp_path / "legacy", hf[1], MODEL.num_layers, 1, 1, extra=Payload(proof))
    for command in ("to-hf", "from-bigcode", "show"):
        output = [] if command == "show" else [str(tmp_path / "out")]
        with pytest.raises(SystemExit) as stop:
            run_command(lambda argv=[command, str(tmp_path / "legacy"), *output]: main(argv))  # type: ignore[misc]
        assert stop.value.code == 2
        error = capfd.readouterr().err
        assert "posix.system" in error and "mp_rank_00/model_optim_rng.pt" in error and "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["legacy"]


def spoil(name: str, legacy: Path) -> None:
    """Damage of one kind to a checkpoint of tensor 2 x pipeline 2."""
    release = legacy / "release"
    file = release / "mp_rank_01_001/model_optim_rng.pt"
    if name == "rank":
        shutil.rmtree(file.parent)
    elif name == "tracker":
        (legacy / "latest_checkpointed_iteration.txt").write_text("700")
    elif name == "truncated":
        file.write_bytes(file.read_bytes()[:-5000])
    elif name == "no zip":
        file.write_bytes(b"no checkpoint")
    elif name == "flipped":
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    else:
        tree = torch.load(file, weights_only=False)
        encoder = tree["model"]["language_model"]["encoder"]
        if name == "replica":
            encoder["layers.0.self_attention.key_value.weight"][3, 3] += 1
        elif name == "head":
            tree["model"]["word_embeddings_for_head"]["weight"][3, 3] += 1
        elif name == "missing":
            del encoder["layers.1.mlp.dense_4h_to_h.bias"]
        elif name == "unexpected":
            encoder["layers.1.mlp.swiglu.weight"] = torch.zeros(3)
        elif name == "shape":
            encoder["layers.1.mlp.dense_4h_to_h.weight"] = torch.zeros(32, 31)
        elif name == "dtype":
            encoder["final_layernorm.bias"] = encoder["final_layernorm.bias"].half()
        elif name == "heads":
            first = release / "mp_rank_00_000/model_optim_rng.pt"
            tree = torch.load(first, weights_only=False)
            encoder = tree["model"]["language_model"]["encoder"]
            del encoder["layers.0.self_attention.key_value.weight"]
            torch.save(tree, first)
            return
        torch.save(tree, file)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rank", "mp_rank_01_001"),
        ("tracker", "iter_0000700"),
        ("truncated", "damaged"),
        ("no zip", "damaged"),
        ("flipped", "has changed since it was written|damaged"),
        ("replica", "key_value.weight differ between"),
        ("head", "word embeddings differ between"),
        ("missing", "layers.1.mlp.dense_4h_to_h.bias"),
        ("unexpected", "swiglu"),
        ("shape", r"\[32, 31\], expected \[32, 32\]"),
        ("dtype", "float16"),
        ("heads", "not a multi-query GPT"),
    ],
)
def test_damage_is_named(name: str, words: str, hf: tuple[Path, Tensors], tmp_path: Path) -> None:
    to_bigcode(open_weights(hf[0]), tmp_path / "legacy", tensor=2, pipeline=2)
    spoil(name, tmp_path / "legacy")
    with pytest.raises(OctoError, match=words):
        to_hf(tmp_path / "legacy", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["legacy"]


def test_what_has_no_such_format_is_refused(tmp_path: Path) -> None:
    for number, changes in enumerate(({"num_query_groups": 8}, {"tied_embeddings": False})):
        write_hf(tmp_path / str(number), small_model(**changes))
        with pytest.raises(OctoError, match="has no BigCode format"):
            to_bigcode(open_weights(tmp_path / str(number)), tmp_path / "out")
    write_hf(tmp_path / "good", MODEL)
    for sizes, words in (({"tensor": 3}, "tensor 3"), ({"pipeline": 3}, "pipeline 3")):
        with pytest.raises(OctoError, match=words):
            to_bigcode(open_weights(tmp_path / "good"), tmp_path / "out", **sizes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "activation"),
    [
        ({}, "gelu_tanh"),
        ({"bias_gelu_fusion": True}, "gelu_tanh"),
        ({"bias_gelu_fusion": False}, "gelu"),
        ({"bias_gelu_fusion": False, "openai_gelu": True}, "gelu_tanh"),
    ],
)
def test_the_arguments_that_choose_gelu(tmp_path: Path, arguments: dict[str, bool], activation: str) -> None:
    tensors = write_hf(tmp_path / "hf", small_model())
    write_legacy(tmp_path / "legacy", tensors, 4, tensor=2, pipeline=1, **arguments)
    source = open_weights(tmp_path / "legacy", vocab_size=1001)
    assert source.manifest.model == small_model(activation=activation, init_std=0.01275)
    to_bigcode(source, tmp_path / "again")
    assert open_weights(tmp_path / "again", vocab_size=1001).manifest.model.activation == activation


def test_arguments_of_another_network(tmp_path: Path) -> None:
    tensors = write_hf(tmp_path / "hf", small_model())
    other = {"apply_residual_connection_post_layernorm": True}
    write_legacy(tmp_path / "legacy", tensors, 4, tensor=1, pipeline=1, **other)
    with pytest.raises(OctoError, match="apply_residual_connection_post_layernorm"):
        open_weights(tmp_path / "legacy")
