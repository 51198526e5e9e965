"""Which layers get adapters, by our names and by Hugging Face's, and the adapters' shapes."""

import pytest

from megatron_octo.architectures import adapted_modules
from megatron_octo.architectures.adapters import adapter_parameters, adapter_specs, count_adapter_parameters
from megatron_octo.config.model import LoraConfig, ModelConfig
from tests.models import small_model

BIGCODE = small_model()
STARCODER2 = small_model(architecture="starcoder2", num_query_groups=2, rotary_base=1e4)
QKV, PROJ, FC1, FC2 = (
    "self_attention.linear_qkv",
    "self_attention.linear_proj",
    "mlp.linear_fc1",
    "mlp.linear_fc2",
)


@pytest.mark.parametrize(
    ("model", "targets", "modules"),
    [
        (BIGCODE, ("c_attn", "c_proj"), (QKV, PROJ, FC2)),  # OctoCoder's
        (BIGCODE, ("c_proj", "mlp.c_proj"), (PROJ, FC2)),
        (BIGCODE, ("attn.c_proj",), (PROJ,)),
        (BIGCODE, ("linear_fc2", "c_fc"), (FC1, FC2)),
        (BIGCODE, ("mlp.linear_fc1",), (FC1,)),
        (STARCODER2, ("c_proj",), (FC2,)),
        (STARCODER2, ("q_proj", "o_proj", "v_proj", "k_proj"), (QKV, PROJ)),
        (STARCODER2, ("linear_qkv",), (QKV,)),
        (STARCODER2, LoraConfig().target_modules, (QKV, PROJ, FC2)),
    ],
)
def test_names(model: ModelConfig, targets: tuple[str, ...], modules: tuple[str, ...]) -> None:
    assert adapted_modules(model, LoraConfig(target_modules=targets)) == modules


@pytest.mark.parametrize(
    ("model", "targets", "message"),
    [
        (BIGCODE, ("q_attn",), "no 'q_attn' in a gpt_bigcode layer, which has linear_fc1, linear_fc2"),
        (BIGCODE, ("linear",), "no 'linear'"),  # ends of names, not beginnings
        (BIGCODE, ("attn",), "no 'attn'"),
        (STARCODER2, ("c_attn",), "no 'c_attn' in a starcoder2 layer"),
        (
            STARCODER2,
            ("q_proj", "v_proj"),
            "q_proj, k_proj, v_proj have one adapter together, name all of them",
        ),
    ],
)
def test_names_that_are_refused(model: ModelConfig, targets: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapted_modules(model, LoraConfig(target_modules=targets))


def test_shapes_and_cuts() -> None:
    lora = LoraConfig(rank=3, target_modules=("c_attn", "c_proj"))
    found = {name: (spec.shape, spec.axis, spec.init) for name, spec in adapter_parameters(BIGCODE, lora).items()}
    assert len(found) == 2 * 3 * 2
    layer = "decoder.layers.1."
    assert found[f"{layer}{QKV}.lora.a"] == ((3, 32), None, "fan_in")
    assert found[f"{layer}{QKV}.lora.b"] == ((48, 3), 0, "zeros")
    assert found[f"{layer}{FC2}.lora.a"] == ((3, 96), 1, "fan_in")
    assert found[f"{layer}{FC2}.lora.b"] == ((32, 3), None, "zeros")
    assert count_adapter_parameters(BIGCODE, lora) == 2 * 3 * ((32 + 48) + (32 + 32) + (96 + 32))
    assert set(adapter_specs(BIGCODE, lora)) == {
        f"decoder.layers.{number}.{module}.weight" for number in (0, 1) for module in (QKV, PROJ, FC2)
    }
