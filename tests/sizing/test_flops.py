"""The closed formula of FLOPs against a loop over layers, documents and positions."""

import numpy as np
import pytest

from megatron_octo.architectures import describe_layer
from megatron_octo.config.model import LoraConfig, ModelConfig
from megatron_octo.sizing.flops import FORMULA, peak_flops, squared_lengths, training_flops
from tests.architectures.variants import VARIANTS, known
from tests.models import STARCODER, small_model


def counted(model: ModelConfig, lengths: list[int], halved: bool) -> int:
    """Multiplications and additions of one forward pass, matrix by matrix."""
    total = 0

    def matmul(rows: int, inner: int, columns: int) -> int:
        return 2 * rows * inner * columns

    h, d, f = model.hidden_size, model.head_dim, model.ffn_hidden_size
    for length in lengths:
        for _ in range(model.num_layers):
            total += matmul(length, h, h) + matmul(length, h, h)
            total += 2 * model.num_query_groups * matmul(length, h, d)
            gate = 2 if describe_layer(model).mlp == "gated" else 1
            total += gate * matmul(length, h, f) + matmul(length, f, h)
            for _ in range(model.num_attention_heads):
                for position in range(length):
                    # Scores and their product with the values: up to itself, or counting itself half.
                    seen = min(position + 1, model.sliding_window or length)
                    half = 0.5 if halved and position < (model.sliding_window or length) else 0.0
                    total += int(2 * matmul(1, d, 1) * (seen - half))
        total += matmul(length, h, model.vocab_size)
    return total


@pytest.mark.parametrize("seed", range(5))
def test_formula_is_the_sum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    heads = int(rng.choice([1, 2, 4]))
    window = int(rng.integers(1, 40)) if seed % 2 else None
    model = small_model(
        num_layers=int(rng.integers(1, 4)),
        hidden_size=heads * 8,
        architecture="starcoder2",
        rotary_base=1e4,
        sliding_window=window,
        num_attention_heads=heads,
        num_query_groups=int(rng.choice([1, heads])),
        ffn_hidden_size=int(rng.integers(1, 100)),
        vocab_size=int(rng.integers(1, 300)),
    )
    lengths = [int(length) for length in rng.integers(1, 60, 8)]
    squared = squared_lengths(lengths, window)
    assert window or squared == sum(length**2 for length in lengths)
    flops = training_flops(model, sum(lengths), squared)
    assert flops == 3 * counted(model, lengths, halved=True)
    # Exact causal attention has n(n+1)/2 scores a head, the convention n^2/2: half a score for each position but those
    # that see a whole window.
    exact = 3 * counted(model, lengths, halved=False)
    halves = sum(min(length, window or length) for length in lengths)
    assert exact - flops == 3 * 2 * model.num_layers * model.hidden_size * halves


def test_a_gated_mlp_has_three_matrices() -> None:
    lengths = [5, 17, 30]
    with known():
        model = small_model(**VARIANTS["llama"])
        found = training_flops(model, sum(lengths), squared_lengths(lengths, None))
        assert found == 3 * counted(model, lengths, halved=True)


def test_starcoder_on_full_rows() -> None:
    flops = training_flops(STARCODER, 8192, 8192**2)
    # 6 FLOPs a weight and position (positions' embeddings multiply nothing), and attention.
    assert flops == pytest.approx(6 * 15.467e9 * 8192 + 6 * 40 * 6144 * 8192**2, rel=1e-3)
    assert "sum(n_i^2)" in FORMULA


def test_frozen_weights_have_no_gradients_of_their_own() -> None:
    """With LoRA a linear layer is multiplied forward and for its input; adapters three times, like everything else."""
    model = small_model(num_layers=3, ffn_hidden_size=100)
    lora = LoraConfig(rank=5, target_modules=("linear_qkv", "linear_fc2"))
    lengths = [3, 20, 41]
    forward = counted(model, lengths, halved=True)
    attention = 2 * model.num_layers * 32 * sum(n * n for n in lengths)
    adapters = sum(2 * n * 3 * (5 * (32 + 48) + 5 * (100 + 32)) for n in lengths)
    expected = 3 * attention + 2 * (forward - attention) + 3 * adapters
    assert training_flops(model, sum(lengths), sum(n * n for n in lengths), lora) == expected


def test_peaks() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3") == peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-40GB") == 312e12
    assert peak_flops("Tesla T4") is None
