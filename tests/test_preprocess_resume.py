"""preprocess after kills, as tasks of a cluster, and with other kinds of input: always the same bytes."""

import gzip
import json
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks.preprocess_kills import campaign, command, make_rows, make_tokenizer
from megatron_octo.common.errors import OctoError
from megatron_octo.data.dataset.indexed import open_corpus
from megatron_octo.data.dataset.manifest import manifest_path, read_manifest
from megatron_octo.data.preprocessing import merge, sources
from megatron_octo.data.text.tokenizer import Tokenizer
from megatron_octo.preprocess import main
from tests.leftovers import left_by_a_kill


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 2.0)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_SMALLEST", 1 << 16)


def preprocess(rows: Path | str, prefix: Path, tokenizer: Path, *options: str) -> list[bytes]:
    arguments = command(Path("rows"), prefix, tokenizer, "--workers", "1", *options)[3:]
    arguments[arguments.index("rows")] = str(rows)
    assert main(arguments) == 0
    if "--task" in options:
        return []
    assert not list(prefix.parent.glob(f"{prefix.name}.work-*"))
    return [Path(f"{prefix}.{suffix}").read_bytes() for suffix in ("bin", "idx")]


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    options = ["--workers", "2", "--dedup", "--shuffle", "3"]
    assert campaign(tmp_path, kills=2, seed=1, megabytes=4, options=options) >= 2


def test_killed_in_the_manifest(tmp_path: Path, tokenizer_file: Path, rows_file: Path) -> None:
    """The last file to be written lies half written beside the others: the next run removes that one."""
    prefix = tmp_path / "p[1]"
    left = [left_by_a_kill(manifest_path(name)) for name in (prefix, tmp_path / "p1")]
    preprocess(rows_file, prefix, tokenizer_file)
    assert [path.exists() for path in left] == [False, True]


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("more", [[], ["--dedup", "--shuffle", "5"]])
def test_tasks_and_merge_give_the_bytes_of_one_run(
    tmp_path: Path, tokenizer_file: Path, rows_file: Path, packed: bool, more: list[str]
) -> None:
    rows = rows_file
    if packed:
        rows = tmp_path / "rows.jsonl.gz"
        rows.write_bytes(gzip.compress(rows_file.read_bytes()))
    wanted = preprocess(rows_file, tmp_path / "one", tokenizer_file, *more)
    for task in ("2/3", "0/3"):
        preprocess(rows, tmp_path / "many", tokenizer_file, "--task", task, *more)
    with pytest.raises(OctoError, match=r"the shard that starts at [\d,]+ of this input is missing"):
        preprocess(rows, tmp_path / "many", tokenizer_file, "--merge", *more)
    for _ in range(2):  # in any order, and again
        preprocess(rows, tmp_path / "many", tokenizer_file, "--task", "1/3", *more)
    assert preprocess(rows, tmp_path / "many", tokenizer_file, "--merge", *more) == wanted


@pytest.mark.slow
def test_changed_options_start_anew_and_say_so(
    tmp_path: Path, tokenizer_file: Path, rows_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preprocess(rows_file, tmp_path / "p", tokenizer_file, "--task", "0/2")
    preprocess(rows_file, tmp_path / "p", tokenizer_file, "--on-error", "skip")
    assert "starting anew" in capsys.readouterr().err
    preprocess(rows_file, tmp_path / "p", tokenizer_file, "--task", "0/2")
    assert preprocess(rows_file, tmp_path / "p", tokenizer_file)
    assert "going on after " in capsys.readouterr().err


@pytest.mark.slow
def test_a_damaged_shard_is_made_again_or_named(tmp_path: Path, tokenizer_file: Path, rows_file: Path) -> None:
    wanted = preprocess(rows_file, tmp_path / "one", tokenizer_file)
    preprocess(rows_file, tmp_path / "p", tokenizer_file, "--task", "0/1")
    first, second, *_ = sorted(tmp_path.glob("p.work-*/*.shard"))
    second.write_bytes(second.read_bytes()[:-5])
    data = bytearray(first.read_bytes())
    data[100] ^= 1
    first.write_bytes(data)
    with pytest.raises(OctoError, match="damaged shard") as caught:
        preprocess(rows_file, tmp_path / "p", tokenizer_file)
    assert caught.value.where == first
    first.unlink()
    assert preprocess(rows_file, tmp_path / "p", tokenizer_file) == wanted


def texts(prefix: Path, tokenizer_file: Path) -> list[str]:
    corpus, tokenizer = open_corpus(prefix), Tokenizer(tokenizer_file)
    documents = (corpus.document(number)[0].tolist() for number in range(len(corpus)))
    return [tokenizer.decode(tokens).removesuffix("<|endoftext|>") for tokens in documents]


@pytest.mark.slow
def test_dedup_keeps_the_first_and_shuffle_loses_nothing(
    tmp_path: Path, tokenizer_file: Path, rows_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [json.loads(line)["text"] for line in rows_file.read_text().splitlines()]
    unique = list(dict.fromkeys(given))
    assert len(given) - len(unique) > 20
    preprocess(rows_file, tmp_path / "d", tokenizer_file, "--dedup")
    assert texts(tmp_path / "d", tokenizer_file) == unique
    manifest = read_manifest(tmp_path / "d")
    assert manifest is not None and manifest.skipped == {"duplicate": len(given) - len(unique)}
    wanted = preprocess(rows_file, tmp_path / "s", tokenizer_file, "--dedup", "--shuffle", "1")
    shuffled = texts(tmp_path / "s", tokenizer_file)
    assert sorted(shuffled) == sorted(unique)
    ranks = {text: rank for rank, text in enumerate(unique)}
    order = [ranks[text] for text in shuffled]
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.1
    preprocess(rows_file, tmp_path / "t", tokenizer_file, "--dedup", "--shuffle", "2")
    assert texts(tmp_path / "t", tokenizer_file) != shuffled
    # With memory for next to nothing, on disk and in several levels, the order is the same.
    monkeypatch.setattr(merge, "_PART", 1 << 13)
    monkeypatch.setattr(merge, "_BUCKET", 50)
    monkeypatch.setattr(merge, "_CHUNK", 100)
    assert preprocess(rows_file, tmp_path / "u", tokenizer_file, "--dedup", "--shuffle", "1") == wanted


@pytest.mark.slow
def test_every_kind_of_input_gives_the_same_bytes(tmp_path: Path, tokenizer_file: Path, rows_file: Path) -> None:
    parquet, zstandard = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("zstandard")
    datasets, arrow = pytest.importorskip("datasets"), pytest.importorskip("pyarrow")
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=150)
    (tmp_path / "a.zst").write_bytes(zstandard.compress(rows_file.read_bytes()))
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    splits = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(rows), "test": datasets.Dataset.from_list(rows[:9])}
    )
    splits.save_to_disk(tmp_path / "splits")
    wanted = preprocess(rows_file, tmp_path / "one", tokenizer_file)
    for number, source in enumerate(
        [tmp_path / "a.parquet", tmp_path / "a.zst", tmp_path / "saved", f"hf:{tmp_path / 'splits'}@train"]
    ):
        assert preprocess(source, tmp_path / f"p{number}", tokenizer_file) == wanted, source
    for source, says in [
        (f"hf:{tmp_path / 'splits'}", "it has the splits train, test"),
        (f"hf:{tmp_path / 'splits'}@dev", "no split 'dev'"),
        (f"hf:{tmp_path / 'none'}", "cannot be loaded"),
    ]:
        with pytest.raises(OctoError, match=says):
            preprocess(source, tmp_path / "q", tokenizer_file)
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-100])
    with pytest.raises(OctoError, match="damaged parquet file"):
        preprocess(tmp_path / "cut.parquet", tmp_path / "q", tokenizer_file)


@pytest.mark.slow
def test_two_runs_on_one_output_do_not_mix(tmp_path: Path, tokenizer_file: Path) -> None:
    rows = make_rows(tmp_path / "rows.jsonl", 12)
    arguments = command(rows, tmp_path / "p", tokenizer_file, "--workers", "1")
    first = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not list(tmp_path.glob("p.work-*/*.shard")):
            assert first.poll() is None
        first.send_signal(signal.SIGSTOP)  # in the middle of its work, however fast the machine is
        second = subprocess.run(arguments, capture_output=True, text=True)
        first.send_signal(signal.SIGCONT)
        assert second.returncode == 2 and "another process works on the same output" in second.stderr
        assert first.wait(60) == 0
    finally:
        first.kill()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.bin", "p.idx", "p.json", "rows.jsonl"]


@pytest.mark.slow
def test_other_inputs_on_the_same_output_are_refused_while_one_runs(tmp_path: Path, tokenizer_file: Path) -> None:
    """The second command has other inputs, so a directory of its own: it must not remove the first one's."""
    rows, other = make_rows(tmp_path / "rows.jsonl", 12), make_rows(tmp_path / "other.jsonl", 0.1)
    prefix = tmp_path / "p"
    first = subprocess.Popen(
        command(rows, prefix, tokenizer_file, "--workers", "1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not list(tmp_path.glob("p.work-*/*.shard")):
            assert first.poll() is None
        first.send_signal(signal.SIGSTOP)
        for options in ([], ["--task", "0/2"]):
            arguments = command(other, prefix, tokenizer_file, "--workers", "1", *options)
            second = subprocess.run(arguments, capture_output=True, text=True)
            assert second.returncode == 2 and "another process works on the same output" in second.stderr
        first.send_signal(signal.SIGCONT)
        assert first.wait(60) == 0
    finally:
        first.kill()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["other.jsonl", "p.bin", "p.idx", "p.json", "rows.jsonl"]


@pytest.mark.slow
def test_a_complete_data_set_is_replaced_only_when_asked(tmp_path: Path, tokenizer_file: Path, rows_file: Path) -> None:
    rows, prefix = tmp_path / "rows.jsonl", tmp_path / "p"
    rows.write_bytes(rows_file.read_bytes())
    first = preprocess(rows, prefix, tokenizer_file)
    assert preprocess(rows, prefix, tokenizer_file) == first, "the same command may run again"
    assert preprocess(rows, prefix, tokenizer_file, "--on-error", "skip") == first
    other = make_rows(tmp_path / "other.jsonl", 0.1, seed=5)
    for source, options, says in [
        (other, [], "made from other inputs"),
        (rows, ["--dedup"], "made with other options .dedup: False, now True"),
        (rows, ["--shuffle", "1", "--task", "0/2"], "made with other options .shuffle: None, now 1"),
    ]:
        with pytest.raises(OctoError, match=says) as caught:
            preprocess(source, prefix, tokenizer_file, *options)
        assert "--overwrite" in str(caught.value.hint)
    data = rows.read_bytes()
    rows.write_bytes(data.replace(b"import", b"tropmi"))  # of the same size
    with pytest.raises(OctoError, match="made from inputs with other content"):
        preprocess(rows, prefix, tokenizer_file)
    assert [Path(f"{prefix}.{suffix}").read_bytes() for suffix in ("bin", "idx")] == first
    assert not list(tmp_path.glob("p.work-*"))
    assert preprocess(other, prefix, tokenizer_file, "--overwrite") != first
    manifest_path(prefix).unlink()
    with pytest.raises(OctoError, match="made by another program"):
        preprocess(rows, prefix, tokenizer_file)


def rewrite(path: Path, old: bytes, new: bytes) -> None:
    """Change a file so that size and time of change stay."""
    found = path.stat()
    data = path.read_bytes().replace(old, new) if old else path.read_bytes()
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (found.st_size, found.st_mtime_ns)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.slow
def test_shards_of_an_input_that_was_rewritten_are_made_again(
    tmp_path: Path, tokenizer_file: Path, rows_file: Path, packed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / ("rows.gz" if packed else "rows.jsonl")
    plain = rows_file.read_bytes()
    changed = plain.replace(b"import", b"tropmi")
    assert changed != plain
    # Stored, not packed smaller: both have the same size.
    pack = (lambda data: gzip.compress(data, 0)) if packed else (lambda data: data)
    rows.write_bytes(pack(plain))
    preprocess(rows, tmp_path / "p", tokenizer_file, "--task", "0/2")
    preprocess(rows, tmp_path / "q", tokenizer_file, "--task", "0/1")
    rewrite(rows, rows.read_bytes(), pack(changed))
    with pytest.raises(OctoError, match="was made from other bytes than this input has now") as caught:
        preprocess(rows, tmp_path / "q", tokenizer_file, "--merge")
    assert caught.value.where == str(rows)
    found = preprocess(rows, tmp_path / "p", tokenizer_file)
    said = capsys.readouterr().err
    assert "shards were made from other bytes" in said and "made again" in said
    rows.write_bytes(pack(changed))
    assert preprocess(rows, tmp_path / "fresh", tokenizer_file) == found


def test_shards_of_an_input_that_was_only_touched_are_kept(
    tmp_path: Path, tokenizer_file: Path, rows_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(rows_file.read_bytes())
    preprocess(rows, tmp_path / "p", tokenizer_file, "--task", "0/1")
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("p.work-*/*.shard")}
    rewrite(rows, b"", b"")
    monitored = list(made)
    preprocess(rows, tmp_path / "p", tokenizer_file, "--task", "0/1")
    assert made == {path: path.stat().st_mtime_ns for path in monitored}
    assert "made again" not in capsys.readouterr().err
    preprocess(rows, tmp_path / "p", tokenizer_file, "--merge")


def test_a_file_without_a_row_is_never_left_out(tmp_path: Path, tokenizer_file: Path, rows_file: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": \n{"text": "a\n' * 20)
    arguments = command(rows_file, tmp_path / "p", tokenizer_file, "--on-error", "skip", "--workers", "1")[3:]
    arguments.insert(arguments.index(str(rows_file)) + 1, str(bad))
    with pytest.raises(OctoError, match=r"not one row of this file is a JSON object .40 broken JSON.") as caught:
        main(arguments)
    assert caught.value.where == str(bad) and not list(tmp_path.glob("p.*[nx]"))
