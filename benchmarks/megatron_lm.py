"""Measure training throughput beside Megatron-LM's own pretrain_gpt.py: same model, same machine, one run.

    python -m benchmarks.megatron_lm --megatron-lm PATH_OF_A_CHECKOUT recipes/santacoderpack.yaml batch.global_size=8

Three measurements: Megatron-LM on its mock data (rows are not packed), ours on rows of one document each, ours on
packed documents. Tokens/s per GPU are medians of the steps after warm-up; ratios are ours over Megatron-LM's. TFLOP/s
are counted on real attention (the formula is in megatron_octo/sizing/flops.py): for whole rows the causal half.
"""

import json
import re
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.support.machine import keep, machine
from benchmarks.support.training import parser_of
from benchmarks.throughput import WARM_UP, benchmark
from megatron_octo.recipe.loading import load_recipe
from megatron_octo.recipe.schema import Recipe
from megatron_octo.sizing.flops import training_flops

_STEP_MS = re.compile(r"elapsed time per iteration \(ms\): ([0-9.]+)")
_LONG = 1_000_000  # mean length at which every row is one document


def arguments_of(recipe: Recipe, steps: int, folder: str) -> list[str]:
    """Return pretrain_gpt.py's arguments for a recipe's model, with its fastest switches on."""
    model, parallel, optimizer = recipe.model, recipe.parallel, recipe.optimizer
    values = {
        "num-layers": model.num_layers,
        "hidden-size": model.hidden_size,
        "ffn-hidden-size": model.ffn_hidden_size,
        "num-attention-heads": model.num_attention_heads,
        "num-query-groups": 1,
        "seq-length": recipe.data.seq_length,
        "max-position-embeddings": model.max_position_embeddings,
        "hidden-dropout": model.hidden_dropout,
        "attention-dropout": model.attention_dropout,
        "init-method-std": model.init_std,
        "tensor-model-parallel-size": parallel.tensor,
        "pipeline-model-parallel-size": parallel.pipeline,
        "micro-batch-size": recipe.batch.micro_size,
        "global-batch-size": recipe.batch.global_size,
        "train-iters": steps,
        "lr": optimizer.lr,
        "min-lr": optimizer.min_lr,
        "lr-decay-style": "cosine",
        "adam-beta2": optimizer.beta2,
        "weight-decay": optimizer.weight_decay,
        "clip-grad": optimizer.clip_grad,
        "position-embedding-type": "learned_absolute",
        "tokenizer-type": "NullTokenizer",
        "vocab-size": model.vocab_size - 1,  # Megatron-LM adds a token of its own
        "make-vocab-size-divisible-by": model.vocab_multiple,
        "cross-entropy-fusion-impl": "native",
        "attention-backend": "fused",
        "transformer-impl": "transformer_engine",
        "log-interval": 1,
        "eval-iters": 0,
        "eval-interval": 1_000_000,
        "num-workers": 2,
        "data-cache-path": f"{folder}/cache",
    }
    switches = (
        "bf16 mock-data use-distributed-optimizer group-query-attention cross-entropy-loss-fusion log-throughput "
        "no-save-optim no-gradient-accumulation-fusion"
    )
    if parallel.sequence:
        switches += " sequence-parallel"
    if parallel.layout.model_ranks == 1:
        switches += " overlap-grad-reduce overlap-param-gather"
    listed = [part for key, value in values.items() for part in (f"--{key}", str(value))]
    return listed + [f"--{switch}" for switch in switches.split()]


def megatron_lm(checkout: Path, recipe: Recipe, ranks: int, steps: int) -> dict[str, Any]:
    """Run pretrain_gpt.py.

    Raises:
        RuntimeError: it failed; the message holds the end of its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "torchrun",
            f"--nproc-per-node={ranks}",
            "pretrain_gpt.py",
            *arguments_of(recipe, steps, folder),
        ]
        answer = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    times = [float(found) for found in _STEP_MS.findall(answer.stdout + answer.stderr)]
    if answer.returncode or len(times) <= WARM_UP:
        raise RuntimeError(f"pretrain_gpt.py failed:\n{(answer.stdout + answer.stderr)[-3000:]}")
    milliseconds = statistics.median(times[WARM_UP:])
    tokens = recipe.batch.global_size * recipe.data.seq_length
    squared = recipe.batch.global_size * recipe.data.seq_length**2
    flops = training_flops(recipe.model, tokens, squared)
    return {
        "step_ms": round(milliseconds, 1),
        "tokens_per_s_per_gpu": round(tokens / milliseconds * 1e3 / ranks),
        "tflops_per_gpu": round(flops / milliseconds * 1e-9 / ranks, 1),
    }


def main() -> int:
    """Measure Megatron-LM, then ours on whole and on packed rows."""
    parser = parser_of(__doc__, overrides="for both")
    parser.add_argument("--megatron-lm", type=Path, required=True, help="a checkout with pretrain_gpt.py")
    parser.add_argument("--ours", nargs="*", default=[], metavar="section.key=value", help="for ours alone")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_intermixed_args()
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    theirs = megatron_lm(arguments.megatron_lm, recipe, arguments.nproc, arguments.steps)
    print("Megatron-LM:", json.dumps(theirs), flush=True)
    result: dict[str, Any] = {"overrides": arguments.overrides, "ours": arguments.ours, "megatron_lm": theirs}
    overrides = [*arguments.overrides, *arguments.ours]
    for name, mean_length in (("whole_rows", _LONG), ("packed", 1024)):
        found = benchmark(arguments.recipe, arguments.nproc, arguments.steps, mean_length, overrides)
        found.pop("machine")
        result[name] = found
        ratio = found["tokens_per_s_per_gpu"] / theirs["tokens_per_s_per_gpu"]
        result[f"{name}_ratio"] = round(ratio, 3)
        print(f"ours, {name}: {ratio:.3f}x of Megatron-LM's tokens/s;", json.dumps(found), flush=True)
    result["machine"] = machine()
    keep(arguments.output, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
