"""To Hugging Face and back: logits of every parallel layout, bit-equal weights, and input that does not fit."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_octo.checkpoint.directory import find_checkpoint, read_manifest, write_manifest
from megatron_octo.checkpoint.reader import CheckpointReader
from megatron_octo.common.errors import OctoError
from megatron_octo.conversion.proof.verify import verify
from megatron_octo.conversion.readers.formats import INDEX
from megatron_octo.conversion.writers.to_hf import to_hf
from megatron_octo.recipe.schema import Recipe
from tests.conftest import SEQ_LENGTH, VOCABULARY
from tests.conversion.models import from_hf
from tests.conversion.networks import hf_logits
from tests.distributed import run_forked, run_ranks

pytestmark = pytest.mark.slow

TOKENS = torch.randint(1, VOCABULARY, (SEQ_LENGTH,), generator=torch.Generator().manual_seed(3))


def train_and_read(recipe: Recipe) -> torch.Tensor | None:
    """Train to the end; then the logits of the network as it stands on its ranks, whole on the last stage."""
    from megatron.core.pipeline_parallel import get_forward_backward_func
    from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region

    from megatron_octo.model.attention.packed_attention import packed_params
    from megatron_octo.model.fused.core_attention import Documents
    from megatron_octo.model.platform.grid import Grid
    from megatron_octo.training.loop import Training
    from megatron_octo.training.run import Run

    grid = Grid.build(recipe.parallel.layout, torch.device("cpu"), recipe.train.seed)
    run = Training(Run(recipe, grid))
    assert run.train() == 0
    network = run.network.model.eval()
    boundaries = torch.tensor([0, SEQ_LENGTH], dtype=torch.int32)
    packed = packed_params(boundaries, SEQ_LENGTH)
    found: list[torch.Tensor] = []

    def keep(logits_1TV: torch.Tensor) -> Any:
        found.append(gather_from_tensor_model_parallel_region(logits_1TV)[0, :, :VOCABULARY].clone())
        zero = torch.zeros(())
        return zero, torch.zeros((), dtype=torch.int), zero

    def forward_step(_: Any, model: Any) -> Any:
        positions = torch.arange(SEQ_LENGTH)[None]
        if not run.network.fused:
            return model(TOKENS[None], positions, None, packed_seq_params=packed), keep
        core: Any = run.network.core
        hidden = core.hidden_states(TOKENS[None], positions, Documents(boundaries, SEQ_LENGTH))
        if not core.post_process:
            return hidden.unsqueeze(1), keep
        return (core.tensor.gather_whole(hidden) @ core.output_weight().t())[None], keep

    with torch.no_grad():
        get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=None,
            model=[network],
            num_microbatches=1,
            seq_length=SEQ_LENGTH,
            micro_batch_size=1,
            forward_only=True,
        )
    return found[0] if found else None


STARCODER2 = {
    "architecture": "starcoder2",
    "num_query_groups": 2,
    "rotary_base": 1e4,
    "sliding_window": 16,
    "tied_embeddings": False,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "parallel", "model"),
    [
        (1, {}, {}),
        (2, {"tensor": 2}, {}),
        (2, {"tensor": 2, "sequence": True}, {"activation": "gelu"}),
        (2, {"pipeline": 2}, {}),
        (4, {"tensor": 2, "pipeline": 2, "sequence": True}, {}),
        (4, {"tensor": 2, "pipeline": 2, "sequence": True}, STARCODER2),
        (4, {"tensor": 4}, {**STARCODER2, "tied_embeddings": True}),
        (2, {"tensor": 2}, {"num_query_groups": 4, "tied_embeddings": False}),
    ],
    ids=[
        "tp1",
        "tp2",
        "tp2-sp-gelu",
        "pp2",
        "tp2-pp2-sp",
        "starcoder2-tp2-pp2-sp",
        "starcoder2-tp4",
        "heads-untied-tp2",
    ],
)
def test_logits_equal_the_training_networks(
    world: int,
    parallel: dict[str, Any],
    model: dict[str, Any],
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
) -> None:
    recipe = make_recipe(model=model, parallel=parallel, batch={"micro_size": 1}, optimizer={"lr": 1e-2})
    ours = next(answer for answer in run_ranks(world, train_and_read, recipe) if answer is not None)
    to_hf(recipe.run_dir, tmp_path / "hf")
    theirs = hf_logits(tmp_path / "hf", TOKENS)
    assert theirs.shape == (SEQ_LENGTH, VOCABULARY)
    assert ours.abs().max() > 0.5  # a network that says something
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from megatron_octo.recipe.loading import build_recipe
    from tests.conftest import recipe_tree

    directory = tmp_path_factory.mktemp("trained") / "run"
    run_ranks(2, train_and_read, build_recipe(recipe_tree(corpus, directory, parallel={"tensor": 2})))
    return directory


@pytest.fixture(scope="module")
def hf(run: Path) -> Path:
    to_hf(run, run.parent / "hf")
    return run.parent / "hf"


def test_round_trip_is_bit_equal(hf: Path, tmp_path: Path) -> None:
    model = from_hf(hf, tmp_path / "ours")
    assert model.vocab_size == VOCABULARY
    to_hf(tmp_path / "ours", tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (hf / "model.safetensors").read_bytes()
    assert (tmp_path / "again/config.json").read_bytes() == (hf / "config.json").read_bytes()


def test_transformers_loads_every_key_and_generates(hf: Path) -> None:
    from transformers import GPTBigCodeForCausalLM

    model, info = GPTBigCodeForCausalLM.from_pretrained(hf, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert model.generate(TOKENS[None, :4], max_new_tokens=3, do_sample=False).shape == (1, 7)


def test_what_transformers_saves_comes_back(hf: Path, tmp_path: Path) -> None:
    from transformers import GPTBigCodeForCausalLM

    GPTBigCodeForCausalLM.from_pretrained(hf).save_pretrained(tmp_path / "theirs", max_shard_size="60KB")
    assert (tmp_path / "theirs" / INDEX).is_file()
    from_hf(tmp_path / "theirs", tmp_path / "ours")
    to_hf(tmp_path / "ours", tmp_path / "again")
    original, again = load_file(hf / "model.safetensors"), load_file(tmp_path / "again/model.safetensors")
    assert original.keys() == again.keys()
    assert all(torch.equal(original[name], again[name]) for name in original)


def test_verify_sees_a_changed_weight(run: Path, hf: Path, tmp_path: Path) -> None:
    found = run_forked(verify, run, hf)
    assert found.weights_equal and found.max_abs <= 1e-4 and found.argmax_agreement == 1.0
    tensors = load_file(hf / "model.safetensors")
    tensors["transformer.h.1.mlp.c_fc.weight"][0, 0] += 1.0
    (tmp_path / "changed").mkdir()
    (tmp_path / "changed/config.json").write_bytes((hf / "config.json").read_bytes())
    save_file(tensors, tmp_path / "changed/model.safetensors", {"format": "pt"})
    found = run_forked(verify, run, tmp_path / "changed")
    assert found.weights_equal is False and found.max_abs > 1e-4


def test_dtype_is_rounded_once(run: Path, hf: Path, tmp_path: Path) -> None:
    to_hf(run, tmp_path / "bf16", dtype="bf16")
    name = "transformer.h.0.attn.c_attn.weight"
    full, half = (
        load_file(hf / "model.safetensors")[name],
        load_file(tmp_path / "bf16/model.safetensors")[name],
    )
    assert torch.equal(half, full.to(torch.bfloat16))
    assert run_forked(verify, run, tmp_path / "bf16").weights_equal is None


def test_shards_hold_every_tensor_once(run: Path, hf: Path, tmp_path: Path) -> None:
    to_hf(run, tmp_path / "out", shard_bytes=60_000)
    shards = sorted(tmp_path.glob("out/model-*.safetensors"))
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert len(shards) == 3 and set(index["weight_map"].values()) == {path.name for path in shards}
    whole = load_file(hf / "model.safetensors")
    found: dict[str, torch.Tensor] = {}
    for path in shards:
        tensors = load_file(path)
        assert not tensors.keys() & found.keys()
        assert path.stat().st_size < 62_000 or len(tensors) == 1
        found.update(tensors)
    assert found.keys() == whole.keys() and all(torch.equal(found[name], whole[name]) for name in whole)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in whole.values())


def spoil(name: str, directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    tensors = load_file(directory / "model.safetensors")
    if name == "architecture":
        config["model_type"] = "llama"
    elif name == "variant":
        config["scale_attn_weights"] = False
    elif name == "activation":
        config["activation_function"] = "relu"
    elif name == "shape":
        config["n_positions"] *= 2
    elif name == "missing":
        del tensors["transformer.h.0.ln_1.bias"]
    elif name == "unexpected":
        tensors["transformer.h.9.ln_1.bias"] = torch.zeros(3)
    elif name == "untied":
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + 1
    elif name == "mixed":
        tensors["transformer.wpe.weight"] = tensors["transformer.wpe.weight"].half()
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    if name == "truncated":
        data = (directory / "model.safetensors").read_bytes()
        (directory / "model.safetensors").write_bytes(data[:-100])
    elif name == "no weights":
        (directory / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("architecture", "llama"),
        ("variant", "scale_attn_weights"),
        ("activation", "activation_function"),
        ("shape", "transformer.wpe.weight"),
        ("missing", "transformer.h.0.ln_1.bias"),
        ("unexpected", "transformer.h.9.ln_1.bias"),
        ("untied", "lm_head"),
        ("mixed", "F16"),
        ("truncated", "damaged"),
        ("no weights", "model.safetensors"),
    ],
)
def test_bad_model_directory(name: str, words: str, hf: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    for file in ("config.json", "model.safetensors"):
        (bad / file).write_bytes((hf / file).read_bytes())
    spoil(name, bad)
    with pytest.raises(OctoError, match=words):
        from_hf(bad, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]  # nothing half-written


def test_existing_output_is_not_touched(run: Path, hf: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in hf.iterdir()}
    with pytest.raises(OctoError, match="exists already"):
        to_hf(run, hf)
    assert before == {path: path.stat().st_mtime_ns for path in hf.iterdir()}


def test_damaged_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "checkpoint"
    shutil.copytree(find_checkpoint(run), copy)
    file = next(copy.glob("weights-*"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(OctoError, match="digest"):
        to_hf(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_tokenizer_is_refused(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "checkpoint"
    copy.mkdir()
    source = find_checkpoint(run)
    for file in source.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    write_manifest(copy, dataclasses.replace(read_manifest(copy), tokenizer="xxh3-128:0"))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(OctoError, match="not the tokenizer"):
        to_hf(copy, tmp_path / "out", tokenizer=tmp_path / "tokenizer.json")


def test_reader_covers_the_padded_vocabulary(run: Path) -> None:
    reader = CheckpointReader(find_checkpoint(run))
    whole = reader.read("embedding.word_embeddings.weight")
    assert whole.shape[0] == 1024 and not whole[VOCABULARY:].any()  # padding never learns
