"""Malicious and damaged weights: each conversion refuses them, or gives the tensors of the undamaged ones."""

import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.campaigns.attack import Campaign, Outcome, controls, damage_bytes, damage_json, ending
from benchmarks.campaigns.inputs import STEPS, make_data, make_run
from benchmarks.support import forks
from benchmarks.support.comparison import tensors_of

CANARY = "PWN"
_GIB = 1 << 30
HUGE = [10**9, 2**31, 2**40, 2**62, -1, 0, 1e300, float("nan"), "9" * 400, [1] * 100]
# A source, and the conversions that read it.
CONVERSIONS = {
    "hf": [["from-hf"], ["from-hf", "--tensor", "2"], ["to-bigcode"], ["show"]],
    "bigcode": [["from-bigcode"], ["to-hf"], ["show"]],
    "checkpoint": [["to-hf"], ["reshard", "--tensor", "2"], ["show"]],
    "bin": [["from-hf"], ["to-hf"], ["show"]],
}


class Touch:
    """An object whose unpickling creates the canary."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the call."""
        return os.system, (f"touch {CANARY}",)


def _rewrite_zip(path: Path, change: Callable[[str, bytes], bytes], extra: dict[str, bytes], packed: bool) -> None:
    """Write a zip again with other contents and more entries."""
    with zipfile.ZipFile(path) as old:
        entries = [(name, old.read(name)) for name in old.namelist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as new:
        for name, data in [*[(name, change(name, data)) for name, data in entries], *extra.items()]:
            new.writestr(name, data)


def pickled(source: Path, generator: random.Random) -> str:
    """Put a call into a file of pickled weights."""
    path = generator.choice(sorted([*source.rglob("*.pt"), *source.glob("*.bin")]) or [source / "pytorch_model.bin"])
    way = generator.choice(["bare", "entry", "prefix", "inner", "twice"])
    evil = pickle.dumps(Touch(), protocol=2)
    if way == "bare" or not path.exists() or not zipfile.is_zipfile(path):
        path.write_bytes(evil + generator.choice([b"", b"\x80\x02}q\x00."]))
        return "bare pickle"

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("data.pkl"):
            return data
        # Run the call and drop its value, then go on with the honest program; or put it in the middle of a mapping.
        body = evil.removeprefix(b"\x80\x02").removesuffix(b".")
        return {"prefix": data[:2] + body + b"0" + data[2:], "inner": data[:-1] + body + b"0."}.get(way, evil)

    extra = {f"{path.stem}/data.pkl": evil, "data.pkl": evil} if way == "twice" else {}
    _rewrite_zip(path, change if way != "twice" else lambda name, data: data, extra, generator.random() < 0.3)
    return f"pickle, {way}"


def zipped(source: Path, generator: random.Random) -> str:
    """Make a zip of weights a bomb, or give it odd entries."""
    paths = sorted([*source.rglob("*.pt"), *source.glob("*.bin")])
    path = generator.choice(paths)
    way = generator.choice(["bomb", "outside", "directory", "record"])
    extra = {
        "bomb": {"archive/data/999": bytes(1 << 28)},
        "outside": {f"../../{CANARY}": b"x", f"/tmp/{CANARY}": b"x"},
        "directory": {"archive/data/": b""},
        "record": {"archive/byteorder": b"big", "archive/version": b"999"},
    }[way]
    _rewrite_zip(path, lambda name, data: bytes(1 << 27) if way == "bomb" and "/data/" in name else data, extra, True)
    return f"zip, {way}"


def headed(source: Path, generator: random.Random) -> str:
    """Change the header of a safetensors file."""
    path = generator.choice(sorted(source.rglob("*.safetensors")))
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    name, other = generator.choice(names), generator.choice(names)
    item = header[name]
    way = generator.choice(
        ["overlap", "twice", "hole", "beyond", "negative", "type", "shape", "long", "deep", "extra", "gone"]
    )
    text = None
    if way == "overlap":
        start = header[other]["data_offsets"][0]
        item["data_offsets"] = [start, start + item["data_offsets"][1] - item["data_offsets"][0]]
    elif way == "twice":
        text = json.dumps(header)[:-1] + f', "{name}": {json.dumps(header[other])}' + "}"
    elif way == "hole":
        data, item["data_offsets"] = data + bytes(64), item["data_offsets"]
    elif way in ("beyond", "negative"):
        move = generator.choice([1, 2**40, 2**63]) * (1 if way == "beyond" else -1)
        item["data_offsets"] = [offset + move for offset in item["data_offsets"]]
    elif way == "type":
        item["dtype"] = generator.choice(["I32", "F64", "F16", "BF16", "BOOL", "F8_E4M3", "x", 3])
    elif way == "shape":
        item["shape"] = generator.choice([[2**62], [-1], [0], [1.0], "x", [*item["shape"], 1], [2**32, 2**32]])
    elif way == "long":
        length = generator.choice([2**63, 2**40, len(raw), 0, 1])
        path.write_bytes(struct.pack("<Q", length) + raw[8:])
        return "header, long"
    elif way == "deep":
        text = '{"a":' * 50_000 + "1" + "}" * 50_000
    elif way == "extra":
        header["../../x"] = {**item, "shape": [0], "data_offsets": [0, 0]}
    else:
        del header[name]
    body = (text or json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(body)) + body + data)
    return f"header, {way}"


def counted(source: Path, generator: random.Random) -> str:
    """Put a huge or impossible number into a description."""
    path = generator.choice(sorted(source.rglob("*.json")))
    tree = json.loads(path.read_text())
    node = tree["model"] if isinstance(tree.get("model"), dict) and "num_layers" in tree["model"] else tree
    keys = [key for key, value in node.items() if isinstance(value, int | float) and not isinstance(value, bool)]
    if not keys:
        return described(source, generator)
    node[generator.choice(keys)] = generator.choice(HUGE)
    path.write_text(json.dumps(tree))
    return "huge count"


def described(source: Path, generator: random.Random) -> str:
    """Damage a JSON file."""
    path = generator.choice(sorted(source.rglob("*.json")))
    _, data = damage_json(path.read_bytes(), generator)
    path.write_bytes(data)
    return f"JSON of {path.name}" if path.suffix == ".json" else "JSON"


def flipped(source: Path, generator: random.Random) -> str:
    """Damage the bytes of any file."""
    files = sorted(path for path in source.rglob("*") if path.is_file())
    weights = [path for path in files if path.suffix in (".safetensors", ".pt", ".bin")]
    path = generator.choice(weights if generator.random() < 0.6 else files)
    way, data = damage_bytes(path.read_bytes(), generator)
    path.write_bytes(data)
    return f"{way} of {path.suffix}"


def linked(source: Path, generator: random.Random) -> str:
    """Put a device, a pipe, a loop or a path elsewhere in the place of a file."""
    path = generator.choice(sorted(path for path in source.rglob("*") if path.is_file()))
    path.unlink()
    way = generator.choice(["/dev/zero", "/dev/urandom", "fifo", "loop", "folder", "gone", "map"])
    if way == "fifo":
        os.mkfifo(path)
    elif way == "folder":
        path.mkdir()
    elif way == "map":
        weights = {"transformer.wte.weight": "../../../../etc/passwd"}
        index = {"metadata": {}, "weight_map": weights}
        (source / "model.safetensors.index.json").write_text(json.dumps(index))
    elif way != "gone":
        path.symlink_to(path.name if way == "loop" else way)
    return f"{way} for a file"


class Attacks(Campaign):
    """One change of a directory of weights, then one conversion of it."""

    count = 500

    def __init__(self, folder: Path) -> None:
        """Train a run and export it in all formats."""
        super().__init__(folder)
        forks.warm_up_training()
        forks.warm_up("megatron_octo.preprocess", "megatron_octo.convert", "megatron_octo.conversion.writers.to_hf")
        forks.warm_up("megatron_octo.conversion.writers.to_bigcode", "megatron_octo.conversion.writers.to_checkpoint")
        make_data(folder)
        run = make_run(folder, "run")
        self.sources = {name: folder / name for name in CONVERSIONS}
        shutil.copytree(run / "checkpoints" / f"step-{STEPS:08d}", self.sources["checkpoint"])
        made: list[list[str | Path]] = [
            ["to-hf", run, self.sources["hf"]],
            ["to-bigcode", run, self.sources["bigcode"], "--tensor", "2"],
        ]
        for arguments in made:
            done = forks.command("megatron_octo.convert", arguments, folder / "log")
            assert done.code == 0, done.text
        code, _ = forks.call(self._write_bin, folder / "log")
        assert code == 0, (folder / "log").read_text()
        self.wanted: dict[str, dict[str, str]] = {}
        for name, conversions in CONVERSIONS.items():
            for words in conversions:
                out = folder / "out"
                done = self._convert(words, self.sources[name], out, folder)
                # Pickles outside BigCode's format are refused, damaged or not.
                assert done.code == (2 if name == "bin" else 0), f"{name} {words}: {done.text}"
                self.wanted[f"{name} {words}"] = tensors_of(out)
                shutil.rmtree(out, ignore_errors=True)

    def _write_bin(self) -> None:
        import torch
        from safetensors.torch import load_file

        target = self.sources["bin"]
        ignored = shutil.ignore_patterns("*.safetensors", "conversion.json")
        shutil.copytree(self.sources["hf"], target, ignore=ignored)
        torch.save(load_file(self.sources["hf"] / "model.safetensors"), target / "pytorch_model.bin")

    def _convert(self, words: list[str], source: Path, out: Path, folder: Path) -> forks.Done:
        place = [source] if words[0] == "show" else [source, out]
        command: list[str | Path] = [words[0], *place, *words[1:]]
        return forks.command("megatron_octo.convert", command, folder / "log", 40, folder, memory=4 * _GIB)

    def attack(self, generator: random.Random, folder: Path) -> Outcome:
        """Change a copy of one source and convert it."""
        name = generator.choice(list(CONVERSIONS))
        source = Path(shutil.copytree(self.sources[name], folder / name))
        ways = [flipped, flipped, described, counted, linked]
        ways += [headed, headed, headed] if name in ("hf", "checkpoint") else [pickled, pickled, zipped]
        way = generator.choice(ways)
        if way is headed and generator.random() < 0.5:
            (source / "conversion.json").unlink(missing_ok=True)
        what = way(source, generator)
        words = generator.choice(CONVERSIONS[name])
        out = folder / "out"
        done = self._convert(words, source, out, folder)
        kind = f"{name}: {way.__name__}"
        told = f"{what}: {' '.join(words)}: "
        if left := [*self.folder.glob(f"**/{CANARY}"), *Path.cwd().glob(CANARY), *Path("/tmp").glob(CANARY)]:
            return Outcome(kind, "", f"{told}code ran: {left[0]}")
        if fault := ending(done) or controls(done.text):
            return Outcome(kind, "", told + fault)
        if done.code:
            return Outcome(kind, "refused", f"{told}refused, and left {out}" if out.exists() else "")
        wrong = tensors_of(out) != self.wanted[f"{name} {words}"]
        return Outcome(kind, "equal", f"{told}silent: other tensors" if wrong else "")
