"""Behaviour of all formats: any to any other and back is bit-equal, in any layout, killed at any moment."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from megatron_octo.checkpoint.directory import read_manifest, write_manifest
from megatron_octo.checkpoint.reader import CheckpointReader
from megatron_octo.common.errors import OctoError, run_command
from megatron_octo.conversion.engine.conversion_record import RECORD
from megatron_octo.conversion.proof.verify import Comparison, verify
from megatron_octo.conversion.readers.open_weights import open_weights
from megatron_octo.conversion.writers.to_bigcode import to_bigcode
from megatron_octo.conversion.writers.to_checkpoint import write_checkpoint
from megatron_octo.conversion.writers.to_hf import to_hf
from megatron_octo.convert import main
from tests import disks
from tests.conversion.models import Tensors, from_hf, small_model, write_hf
from tests.distributed import run_forked

STARCODER2 = {
    "architecture": "starcoder2",
    "num_query_groups": 8,
    "rotary_base": 1e4,
    "sliding_window": 8,
    "tied_embeddings": False,
}


def read_all(directory: Path) -> Tensors:
    found: Tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        found.update(load_file(path))
    return found


def same(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", [49152, 49280, 50257])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_every_layout_and_back(vocabulary: int, tied: bool, tmp_path: Path) -> None:
    """Tensor 1, 2, 4, 8 x pipeline 1, 2, 4; from each layout straight to the next one."""
    model = small_model(vocab_size=vocabulary, tied_embeddings=tied, num_layers=4)
    original = write_hf(tmp_path / "hf", model, torch.bfloat16)
    from_hf(tmp_path / "hf", tmp_path / "last")
    for tensor in (1, 2, 4, 8):
        for pipeline in (1, 2, 4):
            write_checkpoint(
                open_weights(tmp_path / "last", stream=True),
                tmp_path / "next",
                tensor=tensor,
                pipeline=pipeline,
                shard_bytes=1_000_000 * pipeline,
            )
            manifest = read_manifest(tmp_path / "next")
            assert manifest.layout == {"tensor": tensor, "pipeline": pipeline, "data": 1}
            assert manifest.model.vocab_size == vocabulary
            shutil.rmtree(tmp_path / "last")
            (tmp_path / "next").rename(tmp_path / "last")
            to_hf(tmp_path / "last", tmp_path / "again")
            assert same(read_all(tmp_path / "again"), original), (tensor, pipeline)
            shutil.rmtree(tmp_path / "again")
            if tied:
                to_bigcode(open_weights(tmp_path / "last"), tmp_path / "legacy", tensor=tensor, pipeline=pipeline)
                to_hf(tmp_path / "legacy", tmp_path / "again", vocab_size=vocabulary)
                assert same(read_all(tmp_path / "again"), original), (tensor, pipeline, "BigCode")
                shutil.rmtree(tmp_path / "again")
                shutil.rmtree(tmp_path / "legacy")


def test_rows_that_are_apart_on_the_other_side(tmp_path: Path) -> None:
    """StarCoder2 has queries, keys and values in three tensors, we in one, group by group."""
    original = write_hf(tmp_path / "hf", small_model(**STARCODER2), shards=3)
    from_hf(tmp_path / "hf", tmp_path / "ours", tensor=4, pipeline=2)
    to_hf(tmp_path / "ours", tmp_path / "again")
    assert same(read_all(tmp_path / "again"), original)


@pytest.mark.parametrize("tensor", [1, 2])
def test_ranks_read_their_boxes_of_any_format(tensor: int, tmp_path: Path) -> None:
    """What training asks of init_from: the box of a rank, out of a Hugging Face model or BigCode's ranks."""
    model = small_model()
    write_hf(tmp_path / "hf", model, shards=2)
    from_hf(tmp_path / "hf", tmp_path / "ours")
    to_bigcode(open_weights(tmp_path / "hf"), tmp_path / "legacy", tensor=4)
    whole = CheckpointReader(tmp_path / "ours")
    others = [
        open_weights(tmp_path / "hf"),
        open_weights(tmp_path / "legacy", vocab_size=1001),
        open_weights(tmp_path / "ours"),
    ]
    from megatron_octo.architectures.parameters import parameter_specs

    for name, spec in parameter_specs(model).items():
        for rank in range(tensor):
            ((offset, shape),) = spec.boxes(rank, tensor)
            wanted = whole.read(name, offset=offset, shape=shape)
            for other in others:
                assert torch.equal(other.read(name, offset=offset, shape=shape), wanted), (name, other.format)


def test_an_optimizer_is_resharded_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """States come as flat pieces of ranks' boxes; they leave as boxes of the new ranks."""
    from megatron_octo.checkpoint.directory import Fragment, TensorEntry
    from megatron_octo.checkpoint.tensor_writer import SafetensorsWriter

    model = small_model()
    original = write_hf(tmp_path / "hf", model)
    from_hf(tmp_path / "hf", tmp_path / "ours", tensor=2)
    manifest = read_manifest(tmp_path / "ours")
    generator = torch.Generator().manual_seed(1)
    states = {
        name: torch.randn(entry.shape, generator=generator) for name, entry in manifest.tensors["weights"].items()
    }
    files, entries = dict(manifest.files), {}
    pieces: list[dict[str, torch.Tensor]] = [{}, {}]
    for name, entry in manifest.tensors["weights"].items():
        fragments = []
        for number, fragment in enumerate(entry.fragments):
            region = tuple(slice(o, o + s) for o, s in zip(fragment.offset, fragment.shape))
            flat = states[name][region].reshape(-1)
            cut = flat.numel() // 3
            for rank, (start, end) in enumerate(((0, cut), (cut, flat.numel()))):
                key = f"exp_avg/{number}/{name}"
                pieces[rank][key] = flat[start:end].clone()
                fragments.append(
                    Fragment(
                        f"optimizer-{rank:05d}.safetensors",
                        key,
                        fragment.offset,
                        fragment.shape,
                        (start, end),
                    )
                )
        entries[name] = TensorEntry(entry.shape, "F32", tuple(fragments))
    for rank, tensors in enumerate(pieces):
        announced = {key: (torch.float32, tuple(value.shape)) for key, value in tensors.items()}
        with SafetensorsWriter(tmp_path / "ours" / f"optimizer-{rank:05d}.safetensors", announced) as sink:
            for key, value in tensors.items():
                sink.write(key, value[:, None])
            files[f"optimizer-{rank:05d}.safetensors"] = sink.close()
    full = dataclasses.replace(
        manifest,
        files=files,
        tensors={**manifest.tensors, "exp_avg": entries},
        state={"optimizer_steps": 7},
    )
    write_manifest(tmp_path / "ours", full)
    assert main(["reshard", str(tmp_path / "ours"), str(tmp_path / "new"), "--tensor", "4", "--pipeline", "2"]) == 0
    reader = CheckpointReader(tmp_path / "new")
    reader.verify()
    assert reader.manifest.state == {"optimizer_steps": 7}
    assert all(torch.equal(reader.read(name, "exp_avg"), states[name]) for name in states)
    name = "decoder.layers.1.mlp.linear_fc2.weight"
    flat = reader.read_flat(name, "exp_avg", (0, 0), (32, 64), 100, 900)
    assert torch.equal(flat, states[name].view(-1)[100:900])
    assert main(["reshard", str(tmp_path / "ours"), str(tmp_path / "weights"), "--weights-only"]) == 0
    assert set(read_manifest(tmp_path / "weights").tensors) == {"weights"}
    # Whoever wants the weights alone needs the optimizer's files as little as their contents.
    for path in (tmp_path / "ours").glob("optimizer-*"):
        path.unlink()
    to_hf(tmp_path / "ours", tmp_path / "again")
    assert same(read_all(tmp_path / "again"), original)
    assert main(["reshard", str(tmp_path / "ours"), str(tmp_path / "alone"), "--weights-only"]) == 0
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: main(["reshard", str(tmp_path / "ours"), str(tmp_path / "no")]))
    assert stop.value.code == 2 and "optimizer-00000.safetensors" in capfd.readouterr().err


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    directory = tmp_path_factory.mktemp("formats") / "hf"
    return directory, write_hf(directory, small_model())


def test_verify_takes_any_two(hf: tuple[Path, Tensors], tmp_path: Path) -> None:
    from_hf(hf[0], tmp_path / "ours", tensor=2)
    to_bigcode(open_weights(hf[0]), tmp_path / "legacy", tensor=2, pipeline=2)
    ours, legacy = tmp_path / "ours", tmp_path / "legacy"

    def compare() -> list[Comparison]:
        return [verify(*pair) for pair in ((ours, hf[0]), (hf[0], legacy), (legacy, ours), (hf[0], hf[0]))]

    for found in run_forked(compare):
        assert found.weights_equal and found.max_abs <= 1e-4 and found.argmax_agreement == 1.0
        assert len(found.layers) == 4


def test_verify_names_the_first_layer_that_differs(
    hf: tuple[Path, Tensors], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import save_file

    shutil.copytree(hf[0], tmp_path / "changed")
    tensors = dict(hf[1])
    name = "transformer.h.2.mlp.c_proj.weight"
    tensors[name] = tensors[name].clone()
    tensors[name][1, 1] += 3.0
    save_file(tensors, tmp_path / "changed/model.safetensors", {"format": "pt"})
    assert run_forked(main, ["verify", str(hf[0]), "--against", str(tmp_path / "changed")]) == 1
    said = capfd.readouterr().out
    assert "first layer after which they differ: 2" in said and "FAILED" in said
    assert "DIFFER by up to 3 in decoder.layers.2.mlp.linear_fc2.weight" in said
    write_hf(tmp_path / "other", small_model(num_layers=2))
    with pytest.raises(OctoError, match="num_layers 4 and 2"):
        verify(hf[0], tmp_path / "other")


def test_rounding_is_reported_and_overflow_refused(
    hf: tuple[Path, Tensors], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["to-hf", str(hf[0]), str(tmp_path / "bf16"), "--dtype", "bf16"]) == 0
    said = capfd.readouterr().out
    rounded = read_all(tmp_path / "bf16")
    differences = {name: (rounded[name].double() - hf[1][name].double()).abs() for name in rounded}
    largest = max(float(each.max()) for each in differences.values())
    relative = max(float((each / hf[1][name].double().abs()).max()) for name, each in differences.items())
    assert f"rounded to bfloat16: largest difference {largest:.3g}" in said
    assert f"relative {relative:.3g}" in said and relative <= 2**-8
    assert json.loads((tmp_path / "bf16/config.json").read_text())["dtype"] == "bfloat16"

    large = write_hf(tmp_path / "large", small_model())
    large["transformer.h.1.mlp.c_fc.weight"][5, 5] = 1e5
    from safetensors.torch import save_file

    save_file(large, tmp_path / "large/model.safetensors", {"format": "pt"})
    with pytest.raises(OctoError, match=r"decoder.layers.1.mlp.linear_fc1.weight: 1e\+05 is too large for float16"):
        to_hf(tmp_path / "large", tmp_path / "fp16", dtype="fp16")
    assert not (tmp_path / "fp16").exists()


def test_show(hf: tuple[Path, Tensors], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from_hf(hf[0], tmp_path / "ours", tensor=2, pipeline=2)
    assert main(["show", str(tmp_path / "ours"), "--json", "--tensors"]) == 0
    found = json.loads(capfd.readouterr().out)
    count = sum(tensor.numel() for tensor in hf[1].values())
    assert found["parameters"] == count and found["parameters_with_padding"] == count + 23 * 32
    assert found["layout"] == {"tensor": 2, "pipeline": 2, "data": 1} and found["format"] == "checkpoint"
    assert found["tensors"]["decoder.layers.3.mlp.linear_fc1.weight"]["files"] == [
        "weights-tp00-pp01.safetensors",
        "weights-tp01-pp01.safetensors",
    ]
    assert main(["show", str(hf[0])]) == 0
    assert f"{count:,}" in capfd.readouterr().out


def convert_until(moment: int, arguments: tuple[Any, ...], convert: Callable[..., Any]) -> None:
    """Convert, and die of SIGKILL when so many bytes were written; in a process of its own."""

    def die(done: int, total: int) -> None:
        if done >= moment:
            os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(
        target=lambda: convert(*arguments, progress=die, shard_bytes=40_000)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_killed_it_goes_on(hf: tuple[Path, Tensors], tmp_path: Path) -> None:
    from_hf(hf[0], tmp_path / "ours")
    to_hf(tmp_path / "ours", tmp_path / "whole", shard_bytes=40_000)
    total = sum(tensor.nbytes for tensor in hf[1].values())
    out = tmp_path / "out"
    kept: dict[str, int] = {}
    for moment in (1, total // 3, 2 * total // 3, total):
        convert_until(moment, (tmp_path / "ours", out), to_hf)
        assert not out.exists()
        partial = tmp_path / ".out.partial"
        journal = partial / ".journal.json"
        done = json.loads(journal.read_text())["files"] if journal.is_file() else {}
        now = {name: (partial / "files" / name).stat().st_mtime_ns for name in done}
        assert all(now[name] == time for name, time in kept.items())  # nothing was written twice
        kept = now
    assert len(kept) >= 3
    to_hf(tmp_path / "ours", out, shard_bytes=40_000)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir()
    }
    assert not (tmp_path / ".out.partial").exists()


def test_another_job_does_not_take_over_what_a_killed_one_left(hf: tuple[Path, Tensors], tmp_path: Path) -> None:
    from_hf(hf[0], tmp_path / "ours")
    total = sum(tensor.nbytes for tensor in hf[1].values())
    convert_until(2 * total // 3, (tmp_path / "ours", tmp_path / "out"), to_hf)
    to_hf(tmp_path / "ours", tmp_path / "out", dtype="bf16", shard_bytes=40_000)
    assert all(tensor.dtype == torch.bfloat16 for tensor in read_all(tmp_path / "out").values())
    # Damage to a finished file is found; the file is written again.
    convert_until(2 * total // 3, (tmp_path / "ours", tmp_path / "again"), to_hf)
    done = json.loads((tmp_path / ".again.partial/.journal.json").read_text())["files"]
    file = tmp_path / ".again.partial/files" / min(done)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    to_hf(tmp_path / "ours", tmp_path / "again", shard_bytes=40_000)
    assert same(read_all(tmp_path / "again"), hf[1])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disks.small_disk(tmp_path / "disk", "500k") as place:
        yield place


def test_a_full_disk(
    hf: tuple[Path, Tensors],
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for command in ("to-hf", "reshard", "to-bigcode"):
        with pytest.raises(SystemExit) as stop:
            run_command(lambda name=command: main([name, str(hf[0]), str(small_disk / "out")]))  # type: ignore[misc]
        assert stop.value.code == 2
        assert "GB free" in capfd.readouterr().err
        assert list(small_disk.iterdir()) == []
    # Somebody else fills it while we write.
    (small_disk / "ballast").write_bytes(b"x" * 300_000)
    monkeypatch.setattr("megatron_octo.conversion.engine.job._check_space", lambda directory, size: None)
    for command in ("to-hf", "reshard", "to-bigcode"):
        with pytest.raises(SystemExit) as stop:
            run_command(lambda name=command: main([name, str(hf[0]), str(small_disk / "out")]))  # type: ignore[misc]
        assert stop.value.code == 2
        assert "no space left" in capfd.readouterr().err
        assert [path.name for path in small_disk.iterdir()] == ["ballast"]
    # A shard that was complete is kept, and used when there is room again.
    with pytest.raises(OSError, match="No space left"):
        to_hf(hf[0], small_disk / "out", shard_bytes=20_000)
    kept = {path.name for path in (small_disk / ".out.partial/files").glob("model-*")}
    assert kept and not (small_disk / "out").exists()
    (small_disk / "ballast").unlink()
    to_hf(hf[0], small_disk / "out", shard_bytes=20_000)
    assert same(read_all(small_disk / "out"), hf[1])


def spoil(name: str, directory: Path) -> None:
    shard = directory / "model-00002-of-00003.safetensors"
    if name == "missing shard":
        shard.unlink()
    elif name == "flipped byte":
        data = bytearray(shard.read_bytes())
        data[-5] ^= 1
        shard.write_bytes(data)
    elif name == "swapped":
        shutil.copyfile(directory / "model-00001-of-00003.safetensors", shard)
    elif name == "header":
        shard.write_bytes(b"\xff" * 8 + shard.read_bytes()[8:])
    elif name == "outside":
        index = json.loads((directory / "model.safetensors.index.json").read_text())
        index["weight_map"] = {key: f"../hf/{file}" for key, file in index["weight_map"].items()}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing shard", "00002-of-00003"),
        ("flipped byte", "00002-of-00003.safetensors has changed"),
        ("swapped", "is in model-00001-of-00003.safetensors"),
        ("header", "damaged"),
        ("outside", "index.json has changed"),
    ],
)
def test_damage_to_a_model_is_named(name: str, words: str, hf: tuple[Path, Tensors], tmp_path: Path) -> None:
    """What to-hf wrote knows its digests, so a single bit is found."""
    to_hf(hf[0], tmp_path / "hf", shard_bytes=80_000)
    written = {path.name for path in (tmp_path / "hf").iterdir()}
    assert {f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)} < written
    assert set(json.loads((tmp_path / "hf" / RECORD).read_text())["files"]) == written - {RECORD, "README.md"}
    spoil(name, tmp_path / "hf")
    with pytest.raises(OctoError, match=words):
        from_hf(tmp_path / "hf", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize(
    ("command", "words"),
    [("from-bigcode", "not a checkpoint of BigCode"), ("from-hf", "not a Hugging Face model")],
)
def test_the_wrong_format_is_named(command: str, words: str, hf: tuple[Path, Tensors], tmp_path: Path) -> None:
    from_hf(hf[0], tmp_path / "ours")
    source = hf[0] if command == "from-bigcode" else tmp_path / "ours"
    with pytest.raises(OctoError, match=words):
        main([command, str(source), str(tmp_path / "out")])
    with pytest.raises(OctoError, match="no weights here"):
        main(["show", str(tmp_path)])
    with pytest.raises(OctoError, match="no such directory"):
        main(["show", str(tmp_path / "nothing")])


def test_two_at_once(hf: tuple[Path, Tensors], tmp_path: Path) -> None:
    from megatron_octo.conversion.engine.partial import PartialOutput

    with (
        PartialOutput(tmp_path / "out", {}),
        pytest.raises(OctoError, match="another process writes the same output"),
    ):
        to_hf(hf[0], tmp_path / "out")


def test_push_without_network_is_refused_before_the_work(
    hf: tuple[Path, Tensors], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OctoError, match="cannot push to the Hub"):
        main(["to-hf", str(hf[0]), str(tmp_path / "out"), "--push", "me/model"])
    assert not (tmp_path / "out").exists()
