"""The door of training: every mistake has a message, exit code 2, no traceback, and leaves nothing half-written."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from megatron_octo import train
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_file
from megatron_octo.runfiles.run_lock import RunLock
from tests import disks
from tests.conftest import VOCABULARY, write_corpus
from tests.training.runs import TestRun, small_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def run(tmp_path: Path, corpus: Path) -> TestRun:
    return TestRun(tmp_path, corpus, checkpoint={"interval": 1})


def refused(*argv: str) -> str:
    """The message of a mistake that is found before any process group, in this very process."""
    with pytest.raises(OctoError) as error:
        train.main(list(argv))
    return str(error.value)


def test_help_is_quick_and_imports_no_torch() -> None:
    code = """
import sys, megatron_octo.train as door
try:
    door.main(["--help"])
except SystemExit as stop:
    print(stop.code, [name for name in ("torch", "numpy", "megatron.core") if name in sys.modules])
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.endswith("0 []\n")
    assert "exit codes: 0 finished" in answer.stdout
    # The wall clock belongs to the neighbours, too: count the processor's seconds.
    assert min(_cpu_seconds([sys.executable, "-m", "megatron_octo.train", "--help"]) for _ in range(2)) < 1.0


def _cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_mistakes_found_before_any_process_starts(run: TestRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())  # the command sets its rank; that stays in this test
    for variable in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(variable, raising=False)
    recipe = str(run.recipe)
    assert "did you mean 'train.steps'?  (command line)" in refused(recipe, "train.step=3")
    assert "data.seq_length 128 is longer than model.max_position_embeddings 64" in refused(
        recipe, "data.seq_length=128"
    )
    assert "batch.micro_size 3 does not divide batch.global_size 8" in refused(recipe, "batch.micro_size=3")
    message = refused(recipe, "--nproc", "3", "parallel.tensor=2")
    assert "3 processes cannot hold tensor 2 x pipeline 1 = 2 ranks per model" in message
    assert "where: parallel.tensor, parallel.pipeline" in message
    message = refused(recipe, "--nproc", "1", "parallel.tensor=2", "parallel.pipeline=2")
    assert "1 process cannot hold" in message
    assert "cannot start 0 processes" in refused(recipe, "--nproc", "0")
    text = run.recipe.read_text()
    run.recipe.write_text(text.replace("num_layers", "num_layer"))
    line = text[: text.index("num_layers")].count("\n") + 1
    message = refused(recipe)
    assert f"{run.recipe}:{line}" in message
    assert "did you mean 'model.num_layers'?" in message
    run.recipe.write_text("a: [1\nb: 2\n")
    assert f"{run.recipe}:2" in refused(recipe)
    assert not run.path.exists()


@pytest.mark.parametrize(
    ("argument", "message"),
    [("missing.yaml", "no such file or directory"), (".", "this is a directory, a file was expected")],
)
def test_recipes_that_are_no_files(tmp_path: Path, argument: str, message: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "megatron_octo.train", argument],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(train.__file__).parents[1])},
    )
    assert answer.returncode == 2
    assert f"error: {message}\n  where: {argument}" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert list(tmp_path.iterdir()) == []


def leftovers(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.name.endswith(".tmp") or ".tmp" in path.name]


@pytest.mark.slow
def test_a_second_training_in_a_run_directory(run: TestRun) -> None:
    lock = RunLock.acquire(run.path, 7)
    text = run.fails(2)
    lock.release()
    assert f"another process trains in this run directory: process {os.getpid()} on " in text
    assert "attempt 7" in text and "a second run needs another run_dir" in text
    assert list(run.path.iterdir()) == [], "it leaves nothing"


@pytest.mark.slow
def test_data_that_cannot_be_trained_on(run: TestRun, tmp_path: Path, corpus: Path) -> None:
    text = run.fails(2, f"data.train=train: 1.0 0:1 {tmp_path / 'nowhere'}")
    assert f"{tmp_path / 'nowhere'}.idx" in text
    text = run.fails(1, f"data.train={tmp_path / 'paths.txt'}")
    assert str(tmp_path / "paths.txt") in text
    cut = tmp_path / "cut"
    for suffix in (".bin", ".idx"):
        shutil.copy(f"{corpus}{suffix}", f"{cut}{suffix}")
    os.truncate(f"{cut}.bin", Path(f"{cut}.bin").stat().st_size - 2)
    text = run.fails(1, f"data.train=train: 1.0 0:1 {cut}")
    assert f"{cut}.bin" in text
    assert "the index needs" in text
    text = run.fails(2, "data.tokenizer=missing.json")
    assert "no such file" in text
    assert "missing.json" in text
    text = run.fails(1, "data.overlong=error")
    assert "longer than a row" in text
    assert not run.path.exists() or not (run.path / "attempts").exists()
    assert leftovers(tmp_path) == []


def manifest(prefix: Path, tokenizer: Path, vocabulary: int = VOCABULARY) -> None:
    """What preprocess writes beside a data set."""
    from megatron_octo.data.dataset.manifest import FileRecord, Manifest, TokenizerRecord

    outputs = {
        kind: FileRecord(path=f"{prefix}.{kind}", bytes=0, digest=digest_file(f"{prefix}.{kind}"))
        for kind in ("bin", "idx")
    }
    record = TokenizerRecord(
        path=str(tokenizer),
        digest=digest_file(tokenizer),
        vocab_size=vocabulary,
        eod_id=0,
        eod_token="<|endoftext|>",
    )
    Manifest(
        version="0",
        documents=25,
        tokens=0,
        targets=0,
        skipped={},
        notes={},
        tokenizer=record,
        inputs=[],
        outputs=outputs,
        options={},
    ).write(prefix)


@pytest.mark.slow
def test_tokenizers_and_vocabularies_that_do_not_fit(run: TestRun, tmp_path: Path) -> None:
    for name in ("right", "wrong"):
        (tmp_path / f"{name}.json").write_text(name)
    prefix = write_corpus(tmp_path / "data", documents=25)
    manifest(prefix, tmp_path / "right.json")
    data = f"data.train=train: 1.0 0:1 {prefix}"
    text = run.fails(2, data, f"data.tokenizer={tmp_path / 'wrong.json'}")
    assert "the data was made with another tokenizer" in text
    assert str(tmp_path / "wrong.json") in text
    text = run.fails(1, data, "model.vocab_size=1000")
    assert "the data's vocabulary has 1001 tokens, the model's 1000" in text
    assert "where: model.vocab_size" in text
    assert not (run.path / "tokenizer.json").exists()
    run.train(1, data, f"data.tokenizer={tmp_path / 'right.json'}", "train.steps=1")
    assert (run.path / "tokenizer.json").read_text() == "right"
    assert leftovers(tmp_path) == []


@pytest.mark.slow
def test_a_flipped_bit_in_the_tokens(run: TestRun, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("t")
    prefix = write_corpus(tmp_path / "data", documents=25)
    manifest(prefix, tmp_path / "t.json")
    tokens = bytearray(Path(f"{prefix}.bin").read_bytes())
    tokens[100] ^= 1  # size, index and vocabulary are as they were
    Path(f"{prefix}.bin").write_bytes(tokens)
    data = f"data.train=train: 1.0 0:1 {prefix}"
    text = run.fails(2, data)
    assert "digest differs" in text and f"{prefix}.bin" in text
    assert not (run.path / "attempts").exists()
    run.train(1, data, "data.verify=false", "train.steps=1")


@pytest.mark.slow
def test_places_that_cannot_be_written(run: TestRun, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    text = run.fails(2, f"run_dir={tmp_path / 'file'}", f"data.plan_cache={tmp_path / 'plans'}")
    assert str(tmp_path / "file") in text
    assert (tmp_path / "file").read_text() == "x"
    text = run.fails(2, "run_dir=/proc/nowhere", f"data.plan_cache={tmp_path / 'plans'}")
    assert "/proc/nowhere" in text


@pytest.mark.slow
def test_layouts_that_do_not_fit(run: TestRun) -> None:
    text = run.fails(4, "batch.global_size=6")
    assert "batch.global_size 6 is no multiple of micro_size 2 x 4 data-parallel ranks" in text
    text = run.fails(3, "parallel.tensor=2")
    assert "3 processes cannot hold tensor 2" in text
    assert text.count("error:") == 1  # one message for all ranks
    text = run.fails(1, "system.device=cuda")
    assert "no usable GPU" in text
    assert "where: system.device" in text
    text = run.fails(1, "system.attention=te")
    assert "Transformer Engine needs a GPU" in text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disks.small_disk(tmp_path / "disk", "2m") as place:
        yield place


@pytest.mark.slow
def test_a_full_disk(small_disk: Path, tmp_path: Path, corpus: Path) -> None:
    """A checkpoint has about 0.9 MiB: two fit, and keep=9 wants a third."""
    sections = {"checkpoint": {"interval": 1, "keep": 9}, "parallel": {"tensor": 2}}
    run = TestRun(tmp_path, corpus, data={"plan_cache": str(tmp_path / "plans")}, **sections)
    tree = yaml.safe_load(run.recipe.read_text())
    run.recipe.write_text(yaml.safe_dump({**tree, "run_dir": str(small_disk / "run")}))
    run.path = small_disk / "run"
    text = run.fails(2)
    assert "could not be written" in text
    assert "No space left on device" in text
    assert str(run.path) in text
    saved = [name for name in run.names() if name.startswith("step-")]
    assert saved
    assert leftovers(run.path) == []
    last = int(saved[-1].removeprefix("step-"))
    assert (run.checkpoints / "latest").read_text().strip() == saved[-1]
    run.content(last)  # whole
    shutil.rmtree(run.step(1))
    text = run.train(2, f"train.steps={last + 1}", "checkpoint.keep=1")
    assert f"resuming at step {last} " in text


def test_a_disk_that_is_full_from_the_start(small_disk: Path, tmp_path: Path, corpus: Path) -> None:
    run = TestRun(tmp_path, corpus)
    (small_disk / "ballast").write_bytes(b"x" * (2 << 20))
    text = run.fails(2, f"run_dir={small_disk / 'run'}")
    assert "no space left" in text.lower()
    assert leftovers(small_disk) == []
