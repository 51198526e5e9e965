"""LoRA runs against the peft library, and out of the house: merged, and as an adapter directory that peft loads."""

import dataclasses
import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from megatron_octo.architectures import find_architecture
from megatron_octo.architectures.adapters import adapter_specs
from megatron_octo.architectures.parameters import parameter_specs
from megatron_octo.checkpoint.adapter_base import base_record
from megatron_octo.checkpoint.digest import digests
from megatron_octo.checkpoint.directory import find_checkpoint, read_manifest, write_manifest
from megatron_octo.checkpoint.reader import CheckpointReader
from megatron_octo.common.errors import OctoError
from megatron_octo.conversion.proof.verify import verify
from megatron_octo.conversion.readers.merged_adapters import MergedSource
from megatron_octo.conversion.readers.open_weights import open_weights
from megatron_octo.conversion.writers.peft import to_peft
from megatron_octo.conversion.writers.to_hf import to_hf
from megatron_octo.convert import main
from megatron_octo.recipe.loading import build_recipe, load_recipe
from tests.conftest import SEQ_LENGTH, VOCABULARY, recipe_tree, write_corpus
from tests.conversion.models import from_hf
from tests.conversion.networks import hf_logits
from tests.conversion.writers.test_to_hf import TOKENS, train_and_read
from tests.distributed import run_forked, run_ranks

pytestmark = pytest.mark.slow

# transformers' class, its settings, adapted modules there (in our order of the layer), and the layers' prefix.
FAMILIES: dict[str, tuple[str, dict[str, Any], list[list[str]], str]] = {
    "gpt_bigcode": (
        "GPTBigCode",
        {
            "n_layer": 2,
            "n_embd": 32,
            "n_head": 4,
            "n_inner": 128,
            "n_positions": SEQ_LENGTH,
            "activation_function": "gelu_pytorch_tanh",
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        },
        [["attn.c_attn"], ["attn.c_proj"], ["mlp.c_fc"], ["mlp.c_proj"]],
        "transformer.h",
    ),
    "starcoder2": (
        "Starcoder2",
        {
            "num_hidden_layers": 2,
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 128,
            "max_position_embeddings": SEQ_LENGTH,
            "sliding_window": 16,
        },
        [
            ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            ["self_attn.o_proj"],
            ["mlp.c_fc"],
            ["mlp.c_proj"],
        ],
        "model.layers",
    ),
}
MODULES = ["self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2"]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``hf``: a model that transformers drew; ``base``: the same here; ``run``: LoRA on it over four ranks; its
    logits on the ranks, ``logits``; what it was made into, ``merged`` and ``adapter``."""
    import transformers

    folder = tmp_path_factory.mktemp(request.param)
    family, settings, targets, _ = FAMILIES[request.param]
    torch.manual_seed(5)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=VOCABULARY, initializer_range=0.1, bos_token_id=0, eos_token_id=0, **settings
    )
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(folder / "hf")
    model = from_hf(folder / "hf", folder / "base")
    tree = recipe_tree(
        write_corpus(folder / "corpus"),
        folder / "run",
        model=model.model_dump(),
        lora={"rank": 4, "alpha": 6, "dropout": 0.0, "target_modules": [name for t in targets for name in t]},
        checkpoint={"init_from": str(folder / "base")},
        parallel={"tensor": 2, "pipeline": 2, "sequence": True},
        optimizer={"lr": 3e-2},
        batch={"micro_size": 1},
    )
    answers = run_ranks(4, train_and_read, build_recipe(tree))
    torch.save(next(answer for answer in answers if answer is not None), folder / "logits")
    assert main(["to-hf", str(folder / "run"), str(folder / "merged")]) == 0
    assert main(["to-hf", "--adapter", str(folder / "run"), str(folder / "adapter")]) == 0
    return folder


CUT = 20  # where the second of two documents begins


def our_step(run: Path) -> tuple[Any, Any, dict[str, Any]]:
    """Logits of the adapted network on TOKENS as one document and as two, and the gradients of everything that is
    trained (of the one document), by name: arrays."""
    from megatron_octo.model.platform.mcore import load_mcore

    load_mcore()
    from megatron_octo.model.attention.backend import choose_backend
    from megatron_octo.model.attention.packed_attention import packed_params
    from megatron_octo.model.mcore_gpt import build_model
    from megatron_octo.model.platform.grid import lone_grid
    from megatron_octo.model.weights import held_parameters, load_weights

    recipe = load_recipe(run / "recipe.yaml", ["parallel={}", f"data.train='train: 1 0:1 {run.parent / 'corpus'}'"])
    with lone_grid(torch.device("cpu")) as grid:
        network = build_model(
            recipe.model, recipe.compute, grid, choose_backend(recipe.model, recipe.compute, grid.device)
        )
        load_weights(CheckpointReader(run.parent / "base"), network, recipe.model, recipe.compute, grid)
        adapters = CheckpointReader(find_checkpoint(run))
        with torch.no_grad():
            for held in held_parameters(network, recipe.model, recipe.compute, grid):
                if held.parameter.requires_grad:
                    held.parameter.copy_(adapters.read(held.spec.name))

        def forward(*ends: int) -> torch.Tensor:
            packed = packed_params(torch.tensor([0, *ends], dtype=torch.int32), SEQ_LENGTH)
            positions = torch.cat([torch.arange(end - begin) for begin, end in pairwise([0, *ends])])
            logits = network(TOKENS[None], positions[None], None, packed_seq_params=packed)
            found: torch.Tensor = logits[0, :, :VOCABULARY]
            return found

        logits = forward(SEQ_LENGTH)
        with torch.no_grad():
            apart = forward(CUT, SEQ_LENGTH)
        F.cross_entropy(logits[:-1], TOKENS[1:]).backward()
        grads = {
            held.spec.name: held.parameter.grad.numpy()
            for held in held_parameters(network, recipe.model, recipe.compute, grid)
            if held.parameter.grad is not None
        }
        return logits.detach().numpy(), apart.numpy(), grads


def peft_model(folder: Path, **options: Any) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32)
    return PeftModel.from_pretrained(base, str(folder / "adapter"), **options)


@pytest.mark.slow
def test_logits_and_gradients_are_pefts(folder: Path) -> None:
    logits, apart, grads = run_forked(our_step, folder / "run")
    model = peft_model(folder, is_trainable=True)
    with torch.no_grad():  # packed documents see nothing of each other
        alone = torch.cat([model(TOKENS[None, :CUT]).logits[0], model(TOKENS[None, CUT:]).logits[0]])
    torch.testing.assert_close(torch.from_numpy(apart), alone, rtol=0, atol=1e-5)
    theirs = model(TOKENS[None]).logits[0]
    F.cross_entropy(theirs[:-1], TOKENS[1:]).backward()
    torch.testing.assert_close(torch.from_numpy(logits), theirs, rtol=0, atol=1e-5)
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    reader = CheckpointReader(find_checkpoint(folder / "run"))
    config, lora = reader.manifest.model, reader.manifest.lora
    assert lora is not None and len(grads) == 2 * 4 * 2  # A and B of four layers in two
    _, _, targets, prefix = FAMILIES[config.architecture]
    seen = 0
    for weight, pair in adapter_specs(config, lora).items():
        number, _, module = pair.module.removeprefix("decoder.layers.").partition(".")
        tensors = find_architecture(config.architecture).split(parameter_specs(config)[weight], config)
        names = [
            f"base_model.model.{prefix}.{number}.{place}.lora_%s.default.weight"
            for place in targets[MODULES.index(module)]
        ]
        b = torch.from_numpy(grads[pair.b.name])
        for name, tensor in zip(names, tensors, strict=True):
            assert trained[name % "B"].abs().max() > 1e-5, name
            ours = torch.cat([b[part.start : part.stop] for part in tensor.rows])
            torch.testing.assert_close(ours, trained[name % "B"], rtol=1e-4, atol=1e-6)
        # Where peft has three copies of A, ours has the sum of their gradients.
        total = torch.stack([trained[name % "A"] for name in names]).sum(0)
        torch.testing.assert_close(torch.from_numpy(grads[pair.a.name]), total, rtol=1e-4, atol=1e-6)
        seen += 2 * len(names)
    assert seen == len(trained)


@pytest.mark.slow
def test_what_leaves_the_house_says_what_the_ranks_said(folder: Path) -> None:
    """The network on four ranks, the merged model in transformers, and peft on the base agree."""
    logits = torch.load(folder / "logits", weights_only=True)
    base, merged = hf_logits(folder / "hf", TOKENS), hf_logits(folder / "merged", TOKENS)
    assert (logits - base).abs().max() > 0.1  # the adapters do something
    torch.testing.assert_close(merged, logits, rtol=0, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(peft_model(folder)(TOKENS[None]).logits[0], logits, rtol=0, atol=1e-5)
    found = run_forked(verify, folder / "run", folder / "merged")
    assert found.weights_equal and found.max_abs <= 1e-5


@pytest.mark.slow
def test_merging_is_what_peft_merges(folder: Path) -> None:
    merged = load_file(folder / "merged/model.safetensors")
    theirs = peft_model(folder).merge_and_unload().state_dict()
    base = load_file(folder / "hf/model.safetensors")
    assert merged.keys() == base.keys()
    changed = set()
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-6)
        if not torch.equal(tensor, base[name]):
            changed.add(".".join(name.split(".")[-3:]))
    _, _, targets, _ = FAMILIES[folder.name.rstrip("01")]
    assert changed == {f"{name}.weight" for names in targets for name in names}


def test_adapter_directory(folder: Path, tmp_path: Path) -> None:
    family = folder.name.rstrip("01")
    _, _, targets, prefix = FAMILIES[family]
    config = json.loads((folder / "adapter/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 6.0)
    assert config["target_modules"] == [name for names in targets for name in names]
    assert config["base_model_name_or_path"] == str(folder / "hf")  # from which the base was converted
    tensors = load_file(folder / "adapter/adapter_model.safetensors")
    rows = [tensors[f"base_model.model.{prefix}.1.{name}.lora_B.weight"].shape[0] for name in targets[0]]
    assert rows == {"gpt_bigcode": [48], "starcoder2": [32, 16, 16]}[family]
    assert tensors[f"base_model.model.{prefix}.0.mlp.c_proj.lora_A.weight"].shape == (4, 128)
    # After a failed upload it is taken as it is.
    assert to_peft(folder / "run", folder / "adapter", reuse=True) == find_checkpoint(folder / "run")
    with pytest.raises(OctoError, match="exists already"):
        to_peft(folder / "run", folder / "adapter")
    with pytest.raises(OctoError, match="exists already"):
        to_peft(folder / "run", folder / "adapter", base_name="another", reuse=True)
    with pytest.raises(OctoError, match="whole weights, no adapters"):
        main(["to-hf", "--adapter", str(folder / "base"), str(tmp_path / "none")])


def test_boxes_of_merged_weights(folder: Path) -> None:
    """Any box is cut out of the merged whole, as layouts and conversions ask for it."""
    reader = open_weights(folder / "run")
    assert isinstance(reader, MergedSource)
    name = "decoder.layers.1.mlp.linear_fc2.weight"
    whole = reader.read(name)
    assert not torch.equal(whole, CheckpointReader(folder / "base").read(name))
    box = reader.read(name, offset=(7, 40), shape=(9, 50))
    torch.testing.assert_close(box, whole[7:16, 40:90], rtol=0, atol=1e-7)
    assert not isinstance(open_weights(folder / "base"), MergedSource)


def test_a_merged_checkpoint_is_one_to_start_from(folder: Path, tmp_path: Path) -> None:
    assert main(["reshard", "--tensor", "2", str(folder / "run"), str(tmp_path / "whole")]) == 0
    assert CheckpointReader(tmp_path / "whole").manifest.lora is None
    to_hf(tmp_path / "whole", tmp_path / "hf")
    made, merged = (load_file(path / "model.safetensors") for path in (tmp_path / "hf", folder / "merged"))
    assert all(torch.equal(made[name], merged[name]) for name in merged)


def test_rounded_once(folder: Path, tmp_path: Path) -> None:
    """Merged in fp32: exported in fp32 nothing is lost, in bf16 each weight is the nearest one."""
    to_hf(folder / "run", tmp_path / "fp32")
    to_hf(folder / "run", tmp_path / "bf16", dtype="bf16")
    exact, rounded = (load_file(tmp_path / name / "model.safetensors") for name in ("fp32", "bf16"))
    assert all(torch.equal(rounded[name], exact[name].bfloat16()) for name in exact)


def beside_another_base(folder: Path, place: Path, dtype: str, scale: float = 1.0) -> Path:
    """A run like that of ``folder``, its adapters ``scale`` times as large, on the base in another dtype."""
    base = place / "base"
    assert main(["reshard", "--dtype", dtype, str(folder / "base"), str(base)]) == 0
    found = find_checkpoint(folder / "run")
    shutil.copytree(found, place / "run/checkpoints" / found.name)
    shutil.copyfile(folder / "run/recipe.yaml", place / "run/recipe.yaml")
    adapters = place / "run/checkpoints" / found.name
    manifest = read_manifest(adapters)
    files = dict(manifest.files)
    for path in adapters.glob("weights-*.safetensors"):
        save_file({name: scale * tensor for name, tensor in load_file(path).items()}, path)
        files[path.name] = {"bytes": path.stat().st_size, "digest": digests([path])[path]}
    state = {**manifest.state, "base": base_record(CheckpointReader(base))}
    write_manifest(adapters, dataclasses.replace(manifest, files=files, state=state))
    return place / "run"


def test_rounding_of_the_sum_is_said(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A bf16 base and fp32 adapters: the export is bf16, and its distance from the sum is what is printed."""
    run = beside_another_base(folder, tmp_path, "bf16")
    capfd.readouterr()
    assert main(["to-hf", str(run), str(tmp_path / "hf")]) == 0
    said = capfd.readouterr().out
    assert main(["to-hf", "--dtype", "fp32", str(run), str(tmp_path / "exact")]) == 0
    assert "rounded to float32: largest difference 0," in capfd.readouterr().out
    made, exact = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "exact"))
    assert all(torch.equal(made[name], exact[name].bfloat16()) for name in exact)
    largest = max(float((made[name].double() - exact[name].double()).abs().max()) for name in exact)
    assert largest > 0 and f"rounded to bfloat16: largest difference {largest:.3g}" in said
    # Of the same run, a comparison is with what a conversion writes.
    assert run_forked(verify, run, tmp_path / "hf").weights_equal is True
    assert main(["reshard", str(run), str(tmp_path / "whole")]) == 0
    assert "rounded to bfloat16" in capfd.readouterr().out
    assert read_manifest(tmp_path / "whole").precision == "bf16"


def test_a_sum_that_is_too_large_is_refused(folder: Path, tmp_path: Path) -> None:
    run = beside_another_base(folder, tmp_path, "bf16", scale=1e4)
    with pytest.raises(OctoError, match=r"linear_\w+.weight: .* is too large for float16"):
        to_hf(run, tmp_path / "hf", dtype="fp16")
    assert not (tmp_path / "hf").exists()
    to_hf(run, tmp_path / "bf16")


def test_the_card_is_of_the_run_and_not_of_its_base(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("base", "run"):
        shutil.copytree(folder / name, tmp_path / name)
    place = tmp_path / "base/runs/checkpoints"  # a base that is a run itself
    place.mkdir(parents=True)
    assert main(["reshard", str(folder / "base"), str(place / "step-00000001")]) == 0
    (place.parent / "recipe.yaml").write_text("recipe: of the base")
    adapters = find_checkpoint(tmp_path / "run")
    manifest = read_manifest(adapters)
    state = {**manifest.state, "base": base_record(CheckpointReader(place / "step-00000001"))}
    write_manifest(adapters, dataclasses.replace(manifest, state=state))
    capfd.readouterr()
    assert main(["to-hf", str(tmp_path / "run"), str(tmp_path / "hf")]) == 0
    assert capfd.readouterr().out.startswith(f"{adapters} -> ")
    card = (tmp_path / "hf/README.md").read_text()
    assert f"| directory | `{adapters}` |" in card and "lora:" in card and "recipe: of the base" not in card
    record = json.loads((tmp_path / "hf/conversion.json").read_text())
    assert record["source"]["directory"] == str(adapters)
    assert record["source"]["base"] == str(place / "step-00000001")
    assert main(["show", str(tmp_path / "run")]) == 0
    assert "MISSING" not in capfd.readouterr().out


def test_a_base_that_was_moved_is_named(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(folder / "run", tmp_path / "run")
    manifests = (tmp_path / "run/checkpoints").glob("*/manifest.json")
    assert all(str(folder / "base") in path.read_text() for path in manifests)
    (folder / "base").rename(moved)
    try:
        with pytest.raises(OctoError, match="the weights that these adapters were trained on are not here"):
            to_hf(folder / "run", tmp_path / "out")
        assert main(["to-hf", "--base-weights", str(moved), str(folder / "run"), str(tmp_path / "out")]) == 0
        assert main(["to-hf", "--adapter", str(folder / "run"), str(tmp_path / "adapter")]) == 0
    finally:
        moved.rename(folder / "base")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (folder / "merged/model.safetensors").read_bytes()
