# bench: cpu
"""Measure from-hf, reshard and to-hf at any size beside ``cp`` of the same bytes on the same disk, in one run.

    python -m benchmarks.convert --layers 40 --delete        # StarCoderBase's shape, 31 GB; wants 62 GB of disk
    python -m benchmarks.convert --layers 8 --bigcode        # 7.3 GB, and through BigCode's format, too

The model has random weights, made by this script. Every step is the product's own command in a process of its own;
peak memory is that of the process (``ru_maxrss``), time is from start to end, imports and flushing to the disk
included. ``cp`` copies the step's input and ends when the copy is flushed. Both start without their input in the page
cache. At the end the tensors must be those of the beginning, by digest.
"""

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.support.tensor_digests import model_digests
from megatron_octo.architectures import find_architecture
from megatron_octo.checkpoint.tensor_writer import SafetensorsWriter, Specs, spec_bytes
from megatron_octo.config.model import ModelConfig
from megatron_octo.conversion.engine.direct_file import DirectFile

GIB = 1 << 30
_BLOCK = 1 << 25


def make_model(directory: Path, model: ModelConfig, seed: int) -> None:
    """Write a Hugging Face model in bf16 with random signs and mantissas, all of about the same size."""
    architecture = find_architecture(model.architecture)
    directory.mkdir(parents=True)
    config = architecture.hf_config(model, 0, "bfloat16")
    (directory / "config.json").write_text(json.dumps(config))
    specs: Specs = {name: (torch.bfloat16, each.shape) for name, each in architecture.hf_tensors(model).items()}
    shards: list[list[str]] = [[]]
    for name, spec in specs.items():
        if sum(spec_bytes(specs[each]) for each in shards[-1]) + spec_bytes(spec) > 5e9:
            shards.append([])
        shards[-1].append(name)
    generator = np.random.default_rng(seed)
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map.update(dict.fromkeys(shard, file))
        own = {name: specs[name] for name in shard}
        with SafetensorsWriter(directory / file, own, {"format": "pt"}, DirectFile) as sink:
            for name, (_, shape) in own.items():
                width = math.prod(shape[1:])
                step = max(1, _BLOCK // (2 * width))
                for row in range(0, shape[0], step):
                    rows = min(step, shape[0] - row)
                    bits = generator.integers(0, 1 << 16, (rows, width), dtype=np.uint16)
                    bits = bits & np.uint16(0x807F) | np.uint16(0x3C00)  # +-2^-7 * 1.xxx
                    sink.write(name, torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16))
            sink.close()
    index = {"metadata": {"total_size": sum(map(spec_bytes, specs.values()))}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def size_of(directory: Path) -> int:
    """Return the bytes of all files below a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def forget(directory: Path) -> None:
    """Write back what is dirty and drop a directory from the page cache."""
    for path in directory.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copy_seconds(source: Path) -> float:
    """Return the seconds of ``cp -r`` and of flushing what it wrote."""
    forget(source)
    target = source.with_name("copy")
    start = time.perf_counter()
    subprocess.run(["cp", "-r", source, target], check=True)
    subprocess.run(["sync", *(path for path in target.rglob("*") if path.is_file())], check=True)
    seconds = time.perf_counter() - start
    shutil.rmtree(target)
    return seconds


def run_command(*arguments: str | Path) -> tuple[float, int]:
    """Return seconds and peak memory in bytes of ``convert ARGUMENTS``."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "megatron_octo.convert", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return seconds, usage.ru_maxrss * 1024


def main() -> None:
    """Measure one model and append the figures to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=6144)
    parser.add_argument("--heads", type=int, default=48)
    parser.add_argument("--positions", type=int, default=8192)
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--tensor", type=int, default=4)
    parser.add_argument("--pipeline", type=int, default=4)
    parser.add_argument("--bigcode", action="store_true", help="through BigCode's format, too")
    parser.add_argument("--verify", action="store_true", help="the first model and the last, layer by layer")
    parser.add_argument("--delete", action="store_true", help="remove each input as soon as it was converted")
    parser.add_argument("--directory", type=Path, help="where (default: a temporary directory)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "convert.jsonl")
    args = parser.parse_args()
    if args.verify and args.delete:
        parser.error("--verify needs the first model: leave --delete out")
    model = ModelConfig(
        num_layers=args.layers,
        hidden_size=args.hidden,
        num_attention_heads=args.heads,
        ffn_hidden_size=4 * args.hidden,
        max_position_embeddings=args.positions,
        vocab_size=args.vocabulary,
    )
    with tempfile.TemporaryDirectory(dir=args.directory, prefix="convert-") as folder:
        row = measure(Path(folder), model, args)
    row["command"] = " ".join(["python -m benchmarks.convert", *sys.argv[1:]])
    with args.output.open("a") as file:
        file.write(json.dumps(row) + "\n")


def measure(folder: Path, model: ModelConfig, args: argparse.Namespace) -> dict[str, Any]:
    """Run all steps of one model; prints a line per step and returns the figures."""
    layout = ("--tensor", str(args.tensor), "--pipeline", str(args.pipeline))
    steps: list[tuple[str, list[str]]] = [("from-hf", []), ("reshard", [*layout])]
    if args.bigcode:
        steps += [("to-bigcode", [*layout]), ("from-bigcode", ["--vocab-size", str(model.vocab_size)])]
    steps.append(("to-hf", []))
    source = folder / "hf"
    make_model(source, model, args.seed)
    before, size = model_digests(source), size_of(source)
    largest = max(math.prod(tensor.shape) for tensor in find_architecture("gpt_bigcode").hf_tensors(model).values())
    bound = 2 * GIB + 2 * largest
    print(f"{size / 1e9:.2f} GB, {args.layers} layers; memory bound {bound / GIB:.2f} GiB", flush=True)
    figures: list[dict[str, Any]] = []
    for number, (name, options) in enumerate(steps):
        target = folder / f"{number}-{name}"
        copied = copy_seconds(source)
        forget(source)
        seconds, memory = run_command(name, source, target, *options)
        figures.append({"step": name, "seconds": seconds, "cp": copied, "memory": memory})
        print(
            f"{name:13} {seconds:7.1f} s, cp {copied:7.1f} s, ratio {seconds / copied:5.2f}; "
            f"{size / seconds / 1e9:.2f} GB/s; peak {memory / GIB:.2f} GiB {'ok' if memory <= bound else 'TOO MUCH'}",
            flush=True,
        )
        if args.delete or source.name != "hf":
            shutil.rmtree(source)
        source = target
    same = model_digests(source) == before
    print(f"every tensor as at the beginning: {'yes' if same else 'NO'}", flush=True)
    if args.verify:
        seconds, memory = run_command("verify", folder / "hf", source)
        figures.append({"step": "verify", "seconds": seconds, "memory": memory})
        print(f"verify        {seconds:7.1f} s; peak {memory / GIB:.2f} GiB", flush=True)
    together = (
        sum(each["seconds"] for each in figures if "cp" in each),
        sum(each.get("cp", 0) for each in figures),
    )
    print(f"all steps: {together[0]:.1f} s, cp {together[1]:.1f} s, ratio {together[0] / together[1]:.2f}")
    if not same:
        raise SystemExit("the weights changed")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "bytes": size,
        "model": model.model_dump(),
        "bound": bound,
        "steps": figures,
        "ratio": together[0] / together[1],
        "bit_equal": same,
    }


if __name__ == "__main__":
    main()
