"""The tables of architectures: complete, one file each, and clear about what they do not have."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import megatron_octo.architectures as package
from megatron_octo.architectures import checked_model, find_architecture
from megatron_octo.architectures.gpt_bigcode import GPTBigCode
from megatron_octo.architectures.parameters import count_parameters, parameter_specs
from megatron_octo.checkpoint.fit import check_shape
from megatron_octo.common.errors import OctoError
from megatron_octo.config.model import ModelConfig
from megatron_octo.recipe.loading import build_recipe, load_recipe
from tests.conftest import recipe_tree
from tests.places import PROJECT

SHAPE: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "ffn_hidden_size": 96,
    "max_position_embeddings": 48,
    "vocab_size": 251,
}
MODELS: dict[str, dict[str, Any]] = {
    "bigcode": {},
    "bigcode-heads": {"num_query_groups": 4},
    "bigcode-untied": {"tied_embeddings": False},
    "starcoder2": {
        "architecture": "starcoder2",
        "num_query_groups": 2,
        "rotary_base": 1e4,
        "sliding_window": 8,
    },
    "starcoder2-untied": {
        "architecture": "starcoder2",
        "num_query_groups": 4,
        "rotary_base": 1e4,
        "tied_embeddings": False,
    },
}


@pytest.mark.parametrize("name", MODELS)
def test_hugging_face_has_every_row_once(name: str) -> None:
    model = checked_model({**SHAPE, **MODELS[name]})
    architecture = find_architecture(model.architecture)
    rows: Counter[tuple[str, int]] = Counter()
    for tensor in architecture.hf_tensors(model).values():
        assert tensor.shape[0] == sum(part.stop - part.start for part in tensor.rows)
        for part in tensor.rows:
            assert tensor.shape[1:] == parameter_specs(model)[part.parameter].shape[1:]
            rows.update((part.parameter, row) for row in range(part.start, part.stop))
    expected = {(spec.name, row) for spec in parameter_specs(model).values() for row in range(spec.rows)}
    assert rows.keys() == expected
    assert set(rows.values()) == {1}


@pytest.mark.parametrize("name", MODELS)
def test_the_config_comes_back(name: str) -> None:
    model = checked_model({**SHAPE, **MODELS[name], "hidden_dropout": 0.1, "init_std": 0.03})
    architecture = find_architecture(model.architecture)
    tree = architecture.hf_config(model, 7, "float32")
    assert (tree["bos_token_id"], tree["eos_token_id"]) == (7, 7)
    assert checked_model(architecture.model_section(tree)) == model


# What the published files say (huggingface.co/bigcode/starcoder2-*), in the words of transformers 4.
PUBLISHED: dict[str, dict[str, Any]] = {
    "starcoder2-3b": {
        "hidden_size": 3072,
        "initializer_range": 0.018042,
        "intermediate_size": 12288,
        "num_attention_heads": 24,
        "num_hidden_layers": 30,
        "num_key_value_heads": 2,
        "rope_theta": 999999.4420358813,
    },
    "starcoder2-15b": {
        "hidden_size": 6144,
        "initializer_range": 0.01275,
        "intermediate_size": 24576,
        "num_attention_heads": 48,
        "num_hidden_layers": 40,
        "num_key_value_heads": 4,
        "rope_theta": 100000,
        "tie_word_embeddings": False,
    },
}
for _published in PUBLISHED.values():
    _published |= {
        "attention_dropout": 0.1,
        "residual_dropout": 0.1,
        "embedding_dropout": 0.1,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 16384,
        "mlp_type": "default",
        "model_type": "starcoder2",
        "norm_epsilon": 1e-05,
        "norm_type": "layer_norm",
        "sliding_window": 4096,
        "use_bias": True,
        "use_cache": True,
        "vocab_size": 49152,
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_understood(name: str) -> None:
    tree = PUBLISHED[name]
    model = checked_model(find_architecture("starcoder2").model_section(tree))
    assert (model.rotary_base, model.sliding_window) == (tree["rope_theta"], 4096)
    assert model.tied_embeddings == (name == "starcoder2-3b")
    written = find_architecture("starcoder2").hf_config(model, 0, "bfloat16")
    assert tree.items() <= written.items()
    if name == "starcoder2-3b":
        recipe = load_recipe(PROJECT / "recipes/starcoder2_3b_finetune.yaml")
        assert recipe.model == model.model_copy(update={"attention_dropout": 0.0})


# What config.json of bigcode/starcoderbase says of the network.
STARCODERBASE: dict[str, Any] = {
    "activation_function": "gelu",
    "attention_softmax_in_fp32": True,
    "attn_pdrop": 0.1,
    "bos_token_id": 0,
    "embd_pdrop": 0.1,
    "eos_token_id": 0,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt_bigcode",
    "multi_query": True,
    "n_embd": 6144,
    "n_head": 48,
    "n_inner": 24576,
    "n_layer": 40,
    "n_positions": 8192,
    "resid_pdrop": 0.1,
    "scale_attention_softmax_in_fp32": True,
    "scale_attn_weights": True,
    "vocab_size": 49152,
}


@pytest.mark.parametrize("recipe", ["starcoderbase_finetune", "octocoder_lora"])
def test_the_recipes_of_starcoder_are_its_model(recipe: str) -> None:
    table = find_architecture("gpt_bigcode")
    model = checked_model(table.model_section(STARCODERBASE))
    assert STARCODERBASE.items() <= table.hf_config(model, 0, "bfloat16").items()
    ours = load_recipe(PROJECT / f"recipes/{recipe}.yaml").model
    check_shape(ours, model, Path(recipe))
    with pytest.raises(OctoError, match=r"activation gelu_tanh \(recipe: gelu\)"):
        check_shape(ours, model.model_copy(update={"activation": "gelu_tanh"}), Path(recipe))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use_bias": False}, "use_bias False is not supported"),
        ({"hidden_act": "silu"}, "hidden_act 'silu' is not supported"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rotary positions of type 'linear'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rotary positions of type 'yarn'"),
        ({"head_dim": 64}, "head_dim 64 is not supported"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_variants_that_we_do_not_compute(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        find_architecture("starcoder2").model_section({**PUBLISHED["starcoder2-3b"], **change})


def test_tensor_ranks_share_groups_evenly() -> None:
    tree = recipe_tree(Path("corpus"), Path("run"), parallel={"tensor": 6})
    tree["model"] |= {
        **MODELS["starcoder2"],
        "hidden_size": 144,
        "num_attention_heads": 12,
        "num_query_groups": 4,
        "ffn_hidden_size": 384,
        "vocab_multiple": 96,
    }
    with pytest.raises(OctoError, match="neither a divisor nor a multiple of"):
        build_recipe(tree)
    for ranks in (1, 2, 4, 12):
        assert build_recipe({**tree, "parallel": {"tensor": ranks}}).parallel.tensor == ranks


def test_an_output_layer_of_its_own_has_padding_too() -> None:
    tied, untied = (ModelConfig(**SHAPE, tied_embeddings=tied) for tied in (True, False))
    assert count_parameters(untied) - count_parameters(tied) == 251 * 32
    assert count_parameters(untied, padded=True) - count_parameters(tied, padded=True) == 256 * 32


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"architecture": "gpt_bigkode"}, "did you mean 'gpt_bigcode'"),
        ({"num_query_groups": 3}, "does not divide model.num_attention_heads"),
        ({"num_query_groups": 2}, "one key/value head, or one for each of the 4"),
        ({"rotary_base": 10000.0}, "model.rotary_base must be null"),
        ({"sliding_window": 8}, "model.sliding_window must be null"),
        ({"architecture": "starcoder2"}, "model.rotary_base is missing"),
        ({"architecture": "starcoder2", "rotary_base": 1e4, "hidden_size": 12}, "head dimension 3 is odd"),
    ],
)
def test_a_shape_that_there_is_not(section: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        checked_model({**SHAPE, **section})


def test_an_architecture_is_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(GPTBigCode):
        name = "other"

    monkeypatch.setattr(package, "_KNOWN", (*package._KNOWN, Other()))
    assert checked_model({**SHAPE, "architecture": "other"}).architecture == "other"


def test_tables_need_no_torch() -> None:
    code = (
        "import sys\nfrom megatron_octo.architectures import architectures\narchitectures()\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
