"""The door of preprocess, as a user meets it: outputs, the same bytes from any worker count, bad input."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megatron_octo.common.errors import run_command
from megatron_octo.common.files import digest_file
from megatron_octo.data.dataset.indexed import open_corpus
from megatron_octo.data.dataset.manifest import read_manifest
from megatron_octo.data.planning.paths import read_group
from megatron_octo.data.planning.settings import RowSettings
from megatron_octo.data.preprocessing import lines, sources
from megatron_octo.data.row_stream import RowStream
from megatron_octo.data.text.tokenizer import Tokenizer
from megatron_octo.preprocess import main
from tests.data.conftest import CONTROL, train_tokenizer
from tests.places import SHARED

GOOD = [{"inputs": f"question {i} é 日本 \x00", "outputs": f"answer {i}\n"} for i in range(300)]


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json", CONTROL)


def write_rows(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def preprocess(*args: str | Path, **options: str | Path) -> int:
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return main([*map(str, args), *flags])


def fails(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    """Run the door as a command that has to fail; its message."""
    with pytest.raises(SystemExit) as caught:
        run_command(lambda: main(list(map(str, args))))
    message = capsys.readouterr().err
    assert caught.value.code == 2 and message.startswith("error: ")
    return message


def run_door(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "megatron_octo.preprocess", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_help_is_fast() -> None:
    start = time.perf_counter()
    assert "--output-prefix" in run_door("--help").stdout
    assert time.perf_counter() - start < 3  # under a second on an idle machine


def test_round_trip_and_manifest(
    tmp_path: Path,
    tokenizer_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = write_rows(tmp_path / "a.jsonl", [*GOOD, {"inputs": "x<|endoftext|>", "targets": "y<|endoftext|>"}])
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(b'\n{"inputs": "", "outputs": "z"}'))
    prefix = tmp_path / "out" / "p"
    assert preprocess("--input", rows, packed, output_prefix=prefix, tokenizer=tokenizer_file, workers=1) == 0
    corpus, tokenizer = open_corpus(prefix), Tokenizer(tokenizer_file)
    expected = [(row["inputs"], row["outputs"]) for row in GOOD] + [("x<|endoftext|>", "y"), ("", "z")]
    assert len(corpus) == len(expected)
    for number, (context, target) in enumerate(expected):
        tokens, is_target = corpus.document(number)
        assert tokenizer.decode(tokens[~is_target]) == context
        assert tokenizer.decode(tokens[is_target]) == target + "<|endoftext|>"
        assert np.flatnonzero(tokens == tokenizer.eod_id).tolist() == [len(tokens) - 1]
    manifest = read_manifest(prefix)
    assert manifest is not None
    assert (manifest.documents, manifest.tokens) == (302, corpus.document_lengths().sum())
    assert manifest.targets == corpus.document_targets().sum()
    assert manifest.notes == {"documents that spell a control token": 1}
    assert [record.digest for record in manifest.inputs] == [digest_file(rows), digest_file(packed)]
    for name in ("bin", "idx"):
        assert manifest.outputs[name].digest == digest_file(f"{prefix}.{name}")
    assert manifest.tokenizer.digest == digest_file(tokenizer_file)
    summary = capsys.readouterr().out
    assert "302 documents" in summary and "MB/s" in summary and "tokens/s" in summary
    assert sorted(path.name for path in prefix.parent.iterdir()) == ["p.bin", "p.idx", "p.json"]


@pytest.mark.slow
def test_workers_change_no_byte(tmp_path: Path, tokenizer_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": f"def f{i}():\n    return {i}\n" * (i % 9)} for i in range(3000)])
    outputs = []
    for workers, block in ((1, 1 << 20), (2, 1 << 14), (4, 1 << 12)):
        monkeypatch.setattr(sources, "_SMALLEST", block)
        monkeypatch.setattr(lines, "BLOCK", block)
        prefix = tmp_path / f"p{workers}"
        args = ["--format", "text", "--on-error", "skip", "--workers", str(workers)]
        preprocess(*args, input=path, output_prefix=prefix, tokenizer=tokenizer_file)
        outputs.append([Path(f"{prefix}.{suffix}").read_bytes() for suffix in ("bin", "idx")])
    assert outputs[0] == outputs[1] == outputs[2]
    assert not list(tmp_path.glob("*.work-*"))


def _line(text: str | bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        good = json.dumps(GOOD[0]).encode()
        bad = text.encode() if isinstance(text, str) else text
        (folder / "a.jsonl").write_bytes(good + b"\n\n" + bad + b"\n" + good + b"\n")
        return folder / "a.jsonl"

    return make


def _cut_gzip(folder: Path) -> Path:
    rows = write_rows(folder / "rows", GOOD)
    (folder / "a.jsonl").write_bytes(gzip.compress(rows.read_bytes())[:-30])
    return folder / "a.jsonl"


BAD = {
    "missing file": (lambda folder: folder / "a.jsonl", "a.jsonl", "no such file"),
    "a directory": (
        lambda folder: (folder / "a.jsonl").mkdir() or folder / "a.jsonl",
        "a.jsonl",
        "not a file",
    ),
    "empty file": (lambda folder: write_rows(folder / "a.jsonl", []), "a.jsonl", "not one document"),
    "broken JSON": (_line('{"inputs": "a", '), "a.jsonl:3", "not valid JSON"),
    "not an object": (_line("[1, 2]"), "a.jsonl:3", "JSON list"),
    "missing key": (_line('{"inputs": "a"}'), "a.jsonl:3", "no key 'outputs' or 'targets'"),
    "non-string": (_line('{"inputs": "a", "outputs": 7}'), "a.jsonl:3", "'outputs' is int"),
    "empty output": (_line('{"inputs": "a", "outputs": ""}'), "a.jsonl:3", "'outputs' is empty"),
    "invalid UTF-8": (_line(b'{"inputs": "\xff", "outputs": "b"}'), "a.jsonl:3", "not UTF-8 at byte 12"),
    "lone surrogate": (_line('{"inputs": "\\ud800", "outputs": "b"}'), "a.jsonl:3", "surrogate"),
    "cut gzip": (_cut_gzip, "a.jsonl", "damaged gzip"),
}


@pytest.mark.parametrize(
    ("case", "workers"),
    [*((case, 1) for case in BAD), ("broken JSON", 2), ("cut gzip", 2), ("empty file", 2)],
)
def test_bad_input(
    tmp_path: Path, tokenizer_file: Path, capsys: pytest.CaptureFixture[str], case: str, workers: int
) -> None:
    make, where, says = BAD[case]
    path = make(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    for suffix in ("bin", "idx", "json"):
        (out / f"p.{suffix}").write_text("an earlier run")
    args = [
        "--input",
        path,
        "--output-prefix",
        out / "p",
        "--tokenizer",
        tokenizer_file,
        "--workers",
        str(workers),
        "--overwrite",
    ]
    message = fails(capsys, *args)
    assert says in message and where in message
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        f"p.{suffix}": "an earlier run" for suffix in ("bin", "idx", "json")
    }


def test_no_traceback_from_the_command(tmp_path: Path, tokenizer_file: Path) -> None:
    path = BAD["broken JSON"][0](tmp_path)
    done = run_door("--input", path, "--output-prefix", tmp_path / "p", "--tokenizer", tokenizer_file, "--workers", "2")
    assert done.returncode == 2
    assert done.stderr.startswith("error: not valid JSON") and f"where: {path}:3" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_bad_rows_are_skipped_and_counted_when_asked(tmp_path: Path, tokenizer_file: Path) -> None:
    path = _line('{"inputs": "a"}\n{"inputs": "a", "outputs": ""}\n{"inputs": "a", "outputs": ""}\n{')(tmp_path)
    preprocess("--on-error", "skip", input=path, output_prefix=tmp_path / "p", tokenizer=tokenizer_file, workers=1)
    manifest = read_manifest(tmp_path / "p")
    assert manifest is not None
    assert manifest.documents == 2
    assert manifest.skipped == {"missing key": 1, "empty output": 2, "broken JSON": 1}


def test_other_mistakes(tmp_path: Path, tokenizer_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_rows(tmp_path / "p.json", GOOD)
    for args, says in [
        (["--tokenizer", tmp_path / "none.json", "--output-prefix", tmp_path / "q"], "none.json"),
        (["--tokenizer", rows, "--output-prefix", tmp_path / "q"], "not a tokenizer"),
        (["--tokenizer", tokenizer_file, "--output-prefix", tmp_path / "p"], "would overwrite this input"),
        (["--tokenizer", tokenizer_file, "--output-prefix", tmp_path / "q", "--workers", "0"], "--workers 0"),
        (["--tokenizer", tokenizer_file, "--output-prefix", tmp_path / "q", "--eod-token", "<e>"], "'<e>'"),
    ]:
        assert says in fails(capsys, "--input", rows, *args)
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("module", ["dataset.writer", "preprocessing.shards"])
def test_full_disk(tmp_path: Path, tokenizer_file: Path, module: str) -> None:
    rows = write_rows(tmp_path / "a.jsonl", GOOD)
    out = tmp_path / "out"
    script = (
        "import sys\n"
        "from megatron_octo.common.errors import run_command; from megatron_octo.preprocess import main\n"
        f"import megatron_octo.data.{module} as module\n"
        "real = module.beside\n"
        "def full(path):\n"
        "    real(path).symlink_to('/dev/full')\n"
        "    return real(path)\n"
        "module.beside = full\n"
        "run_command(lambda: main(sys.argv[1:]))"
    )
    args = ["--input", rows, "--output-prefix", out / "p", "--tokenizer", tokenizer_file, "--workers", "1"]
    done = subprocess.run([sys.executable, "-c", script, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "no space left" in done.stderr and str(out / "p") in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path.name for path in out.iterdir() if ".work-" not in path.name]
    assert not list(out.rglob("*.tmp"))
    again = run_door(*args)  # with room, the same command goes on
    assert again.returncode == 0 and ("going on after 1 " in again.stderr) == (module == "dataset.writer")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
@pytest.mark.parametrize("victim", ["worker", "terminate", "kill"])
@pytest.mark.slow
def test_death_leaves_no_output_and_no_process(tmp_path: Path, tokenizer_file: Path, victim: str) -> None:
    rows = tmp_path / "a.jsonl"
    rows.write_bytes((json.dumps({"text": "some words of text " * 1000}) + "\n").encode() * 4000)
    out = tmp_path / "out"
    args = ["--input", rows, "--output-prefix", out / "p", "--tokenizer", tokenizer_file, "--format", "text"]
    door = subprocess.Popen(
        [sys.executable, "-m", "megatron_octo.preprocess", *map(str, args), "--workers", "2"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        limit = time.monotonic() + 60
        while len(list(out.glob("p.work-*/*.shard"))) < 3:
            assert time.monotonic() < limit and door.poll() is None
            time.sleep(0.01)
        workers = [pid for pid in _children(door.pid) if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
        assert len(workers) == 2
        target, number = {
            "worker": (workers[0], signal.SIGKILL),
            "terminate": (door.pid, signal.SIGTERM),
            "kill": (door.pid, signal.SIGKILL),
        }[victim]
        os.kill(target, number)
        error = door.communicate(timeout=60)[1]
    finally:
        door.kill()
    assert not [path.name for path in out.iterdir() if not path.name.startswith("p.work-")]
    if victim != "kill":
        assert door.returncode == {"worker": 2, "terminate": 143}[victim]
        assert "Traceback" not in error
        assert ("a worker process died (exit code -9)" in error) == (victim == "worker")
    limit = time.monotonic() + 30
    while any(map(_alive, workers)):
        assert time.monotonic() < limit, "workers outlive their parent"
        time.sleep(0.05)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder ../shared is not here")
@pytest.mark.slow
def test_real_commits(tmp_path: Path) -> None:
    """Real commits decode to the text they came from, and rows are 99.9 % full."""
    vocabulary, source, prefix = (
        SHARED / "starcoder_tokenizer.json",
        SHARED / "commits.jsonl.gz",
        tmp_path / "c",
    )
    preprocess("--format", "commits", input=source, output_prefix=prefix, tokenizer=vocabulary)
    corpus, tokenizer = open_corpus(prefix), Tokenizer(vocabulary)
    with gzip.open(source) as file:
        for number, line in enumerate(file):
            if number % 20:  # decoding all of them takes long
                continue
            row = json.loads(line)
            tokens, is_target = corpus.document(number)
            context = f"<commit_before>{row['old_contents']}<commit_msg>{row['subject']}<commit_after>"
            assert tokenizer.decode(tokens[~is_target].tolist()) == context
            assert tokenizer.decode(tokens[is_target].tolist()) == row["new_contents"] + "<|endoftext|>"
            assert np.count_nonzero(tokens < 19) == 4  # three tags and the end, whatever the text spells
    assert number + 1 == len(corpus) == 1991
    for seq_length in (2048, 8192):
        group = read_group(f"train: 1.0 0:1 {prefix}")
        stream = RowStream(group, RowSettings(seq_length=seq_length, seed=1234, cache_dir=tmp_path / "plans"))
        assert stream.fill(0) >= 0.999
        assert stream.summary(0)["targets"] == corpus.document_targets().sum()
