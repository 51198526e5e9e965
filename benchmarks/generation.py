# bench: cpu gpu
r"""Measure generation beside transformers' ``generate`` batched as the reference harness does, in one run.

    python -m benchmarks.generation --shape 15.5b --problems 164 --samples 20 --peer-problems 2
    python -m benchmarks.generation --shape 1.1b --problems 2952 --samples 1 --greedy --no-peer
    python -m benchmarks.generation --shape tiny --problems 8 --samples 4 --peer-problems 2

The model has random weights, so that answers do not end by themselves: each sample has a length of its own, drawn once
with a seed (log-normal, median 90 tokens, at most 512), which stands for the ends of real answers. Prompts are random
tokens, 100 to 700 of them. The peer gives ``generate`` one prompt at a time with ``num_return_sequences`` of five, and
each batch runs as long as its longest sample, as it does there. It is measured on some of the problems. Printed:
wanted tokens per second of both, and their ratio.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.machine import keep, machine

# layers, hidden size, heads; one head of keys and values
SHAPES = {"15.5b": (40, 6144, 48), "7b": (32, 4096, 32), "1.1b": (24, 2048, 16), "tiny": (2, 64, 4)}
VOCABULARY, POSITIONS = 49_152, 8192
TEMPERATURE, TOP_P, PEER_BATCH = 0.2, 0.95, 5


@dataclass(frozen=True)
class Work:
    """Prompts as token ids, and the lengths of the answers, by problem and sample."""

    prompts: list[tuple[int, ...]]
    lengths: np.ndarray[Any, Any]


def make_work(problems: int, samples: int, shape: str) -> Work:
    """Draw prompts and lengths."""
    generator = np.random.default_rng(0)
    small = shape == "tiny"
    sizes = generator.integers(10, 40, problems) if small else generator.integers(100, 700, problems)
    prompts = [tuple(generator.integers(1, VOCABULARY, size).tolist()) for size in sizes]
    lengths = np.exp(generator.normal(np.log(90), 0.7, (problems, samples))).astype(int).clip(8, 512)
    return Work(prompts, lengths.clip(1, 24) if small else lengths)


class Letters:
    """Stands for a tokenizer: text of about four characters per token, decoded by a real library."""

    def __init__(self) -> None:
        from tokenizers import Tokenizer, decoders, models

        words = {f"Ġt{number}": number for number in range(VOCABULARY)}
        self._library = Tokenizer(models.WordLevel(words, unk_token="Ġt0"))
        self._library.decoder = decoders.ByteLevel()

    def decode(self, tokens: list[int], **_: Any) -> str:
        """Return the text of tokens."""
        text: str = self._library.decode(tokens)
        return text


def make_model(shape: str, device: str) -> Any:
    """Return transformers' GPTBigCode of a shape with random weights."""
    import torch
    from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

    layers, hidden, heads = SHAPES[shape]
    config = GPTBigCodeConfig(
        vocab_size=VOCABULARY, n_positions=POSITIONS, n_embd=hidden, n_layer=layers, n_head=heads,
        eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    with torch.device(device):
        network = GPTBigCodeForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    return network


def ours(network: Any, device: str, work: Work, greedy: bool, batch: int | None) -> tuple[int, float, int]:
    """Generate all samples; returns wanted tokens, seconds, and sequences at once."""
    import torch

    from megatron_octo.evaluation.benchmark.cutting import finished
    from megatron_octo.evaluation.generation.batches import Request
    from megatron_octo.evaluation.generation.engine import Engine
    from megatron_octo.evaluation.generation.generate import default_batch
    from megatron_octo.evaluation.generation.open_model import OpenModel
    from megatron_octo.evaluation.generation.sampling import stream_key

    model = OpenModel(network, Letters(), device, (), POSITIONS)
    size = batch or default_batch(model, 1280)
    requests = [
        Request((problem, sample), prompt, stream_key(0, "bench", problem, sample), int(length))
        for problem, prompt in enumerate(work.prompts)
        for sample, length in enumerate(work.lengths[problem])
    ]
    requests.sort(key=lambda request: (-len(request.prompt), request.prompt))

    def ended(_: Any, text: str) -> None:
        finished("python", "def f(x):", text)  # costs what it costs; random text has no end

    engine = Engine(model, 0.0 if greedy else TEMPERATURE, TOP_P, size, ended)
    if device == "cuda":
        list(engine.run(requests[: min(64, len(requests))][:8]))  # warm-up
        torch.cuda.synchronize()
    started, tokens = time.perf_counter(), 0
    for number, answer in enumerate(engine.run(requests), start=1):
        tokens += len(answer.tokens)
        if number % 500 == 0:
            print(f"  {number} of {len(requests)} samples, {time.perf_counter() - started:.0f} s", flush=True)
    return tokens, time.perf_counter() - started, size


def peer(network: Any, device: str, work: Work, problems: int, greedy: bool) -> tuple[int, float]:
    """Generate some problems' samples one prompt at a time; returns wanted tokens and seconds."""
    import torch

    chosen = np.linspace(0, len(work.prompts) - 1, problems).astype(int)
    how: dict[str, Any] = {"do_sample": False} if greedy else {
        "do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P, "top_k": 0,
    }  # fmt: skip
    tokens, started = 0, 0.0
    for number, problem in enumerate([int(chosen[0]), *map(int, chosen)]):
        if number == 1:  # the first one warmed up
            tokens, started = 0, time.perf_counter()
        prompt = torch.tensor([work.prompts[problem]], device=device)
        lengths = work.lengths[problem]
        for first in range(0, len(lengths), PEER_BATCH):
            part = lengths[first : first + PEER_BATCH]
            network.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                num_return_sequences=1 if greedy else len(part),
                max_new_tokens=int(part.max()),
                min_new_tokens=int(part.max()),
                pad_token_id=0,
                **how,
            )
            tokens += int(part.sum())
            if number == 0:
                break
    if device == "cuda":
        torch.cuda.synchronize()
    return tokens, time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--problems", type=int, default=8)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--batch", type=int, help="sequences at once (default: by memory)")
    parser.add_argument("--greedy", action="store_true")
    parser.add_argument("--peer-problems", type=int, default=2)
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--output", help="file to which a JSON line is appended")
    args = parser.parse_args()
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = make_model(args.shape, device)
    work = make_work(args.problems, args.samples, args.shape)
    tokens, seconds, batch = ours(network, device, work, args.greedy, args.batch)
    rate = tokens / seconds
    found: dict[str, Any] = {
        "bench": "generation", "shape": args.shape, "problems": args.problems, "samples": args.samples,
        "greedy": args.greedy, "batch": batch, "tokens": tokens, "seconds": round(seconds, 1),
        "tokens_per_s": round(rate),
    }  # fmt: skip
    print(f"ours: {tokens:,} tokens in {seconds:.1f} s: {rate:,.0f} tokens/s, {batch} sequences at once", flush=True)
    if not args.no_peer:
        peer_tokens, peer_seconds = peer(network, device, work, args.peer_problems, args.greedy)
        peer_rate = peer_tokens / peer_seconds
        found |= {"peer_tokens_per_s": round(peer_rate), "ratio": round(rate / peer_rate, 2)}
        print(f"transformers' generate, {PEER_BATCH} samples of one prompt: {peer_rate:,.0f} tokens/s", flush=True)
        print(f"ratio {rate / peer_rate:.2f}")
    keep(Path(args.output) if args.output else None, {**found, "machine": machine()})


if __name__ == "__main__":
    main()
