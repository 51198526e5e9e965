import builtins
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from megatron_octo.common.errors import run_command
from megatron_octo.common.files import digest_json
from megatron_octo.data.view.report import report
from megatron_octo.inspect import main
from tests.data.conftest import CONTROL, train_tokenizer
from tests.data.dataset.test_indexed import SAMPLE, write
from tests.test_preprocess import GOOD, preprocess, write_rows


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    tokenizer_file = train_tokenizer(tmp_path / "tokenizer.json", CONTROL)
    rows = write_rows(tmp_path / "a.jsonl", GOOD)
    preprocess(input=rows, output_prefix=tmp_path / "p", tokenizer=tokenizer_file, workers=1)
    return tmp_path / "p"


def test_counts_and_sample(prefix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main([str(prefix), "--sample", "7", "--full"]) == 0
    shown = capsys.readouterr().out
    assert "documents" in shown and "300" in shown
    assert "checks: good (every byte was read)" in shown
    context, target = shown.split("--- target, learned:")
    assert "question 7" in context.split("--- context, not learned:")[1]
    assert "answer 7\n<|endoftext|>" in target
    assert main([f"{prefix}.idx"]) == 0


def test_targets_are_coloured_on_a_terminal(prefix: Path) -> None:
    console = Console(force_terminal=True, record=True, width=100, color_system="standard")
    assert report(str(prefix), sample=0, tokenizer=None, full=False, console=console)
    assert "\x1b[32manswer 0" in console.export_text(styles=True)


def test_nothing_of_a_manifest_is_markup(prefix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(f"{prefix}.json")
    tree = json.loads(path.read_text())
    del tree["digest"]
    tree["skipped"], tree["tokenizer"]["eod_token"] = {"[/nope] \x1b[2J": 3}, "[/INST]"
    path.write_text(json.dumps({**tree, "digest": digest_json(tree)}))
    capsys.readouterr()
    assert main([str(prefix)]) == 0
    shown = capsys.readouterr().out
    assert "3 [/nope]" in shown and "'[/INST]'" in shown and "\x1b" not in shown


def test_without_manifest_ids_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "p", SAMPLE)
    assert main([str(tmp_path / "p"), "--sample", "2"]) == 0
    shown = capsys.readouterr().out
    assert "no tokenizer is known" in shown
    assert shown.count("--- target, learned: 2 tokens ---") == 2


def test_full_finds_flipped_bytes(prefix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(Path(f"{prefix}.bin").read_bytes())
    data[11] = 0xFF  # high byte of a token
    Path(f"{prefix}.bin").write_bytes(data)
    assert main([str(prefix)]) == 0
    assert main([str(prefix), "--full"]) == 2
    shown = capsys.readouterr().out
    assert "1 token ids are outside the vocabulary" in shown
    assert "the manifest says xxh3-128:" in " ".join(shown.split())


def test_bad_input(prefix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = train_tokenizer(tmp_path / "other.json", ["<|endoftext|>", "<other>"])
    data = Path(f"{prefix}.bin").read_bytes()
    Path(f"{tmp_path}/cut.bin").write_bytes(data[:-2])
    Path(f"{tmp_path}/cut.idx").write_bytes(Path(f"{prefix}.idx").read_bytes())
    for args, says in [
        ([tmp_path / "none"], "no data set here"),
        ([tmp_path / "cut"], f"{len(data) - 2} bytes, but the index needs {len(data)}"),
        ([prefix, "--sample", "300"], "no document 300: there are 300"),
        ([prefix, "--sample", "0", "--tokenizer", other], "made with another tokenizer"),
        ([prefix, "--sample", "0", "--tokenizer", tmp_path / "none.json"], "no such file"),
    ]:
        with pytest.raises(SystemExit) as caught:
            run_command(lambda args=args: main(list(map(str, args))))
        assert caught.value.code == 2
        assert says in capsys.readouterr().err


def text_set(folder: Path, name: str = "t", rows: list | None = None) -> Path:
    """A data set of pretraining text, with a tokenizer that has the tokens of fill in the middle."""
    control = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>"]
    tokenizer = train_tokenizer(folder / "fim.json", control)
    rows = rows or [{"text": f"def f{i}(a, b):\n    return a + {i}\n"} for i in range(40)]
    path = write_rows(folder / f"{name}.jsonl", rows)
    preprocess("--format", "text", input=path, output_prefix=folder / name, tokenizer=tokenizer, workers=1)
    return folder / name


def test_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = text_set(tmp_path)
    capsys.readouterr()
    args = ["--row", "0", "--seq-length", "200", "--fim-rate", "0.5", "--fim-spm-rate", "0.5", "--epoch", "1"]
    assert main([str(prefix), *args]) == 0
    shown = capsys.readouterr().out
    assert "row 0 of" in shown and "of epoch 1" in shown
    assert "fill in the middle ---" in " ".join(shown.split())
    for mark in ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"):
        assert shown.count(mark) == shown.count("fill in the") > 0
    assert shown.count("<|endoftext|>") == shown.count("targets")


def test_a_row_in_colour(tmp_path: Path, prefix: Path) -> None:
    from megatron_octo.data.planning.settings import RowSettings

    def shown(path: Path, **options: Any) -> str:
        console = Console(force_terminal=True, record=True, width=200, color_system="standard")
        settings = RowSettings(seed=1234, cache_dir="", **options)
        assert report(str(path), sample=None, tokenizer=None, full=False, console=console, row=0, settings=settings)
        return console.export_text(styles=True)

    pairs = shown(prefix, seq_length=100)
    assert "\x1b[2mquestion" in pairs and "\x1b[32manswer" in pairs and "positions 0-" in pairs
    windows = shown(prefix, seq_length=16, overlong="window")
    assert "tokens of its input repeated" in windows and "\x1b[2;36mq" in windows
    assert "\x1b[1;35m<fim_prefix>" in shown(text_set(tmp_path), seq_length=100, fim_rate=1.0)


def test_against(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": f"def f{i}(a, b):\n    return a + {i}\n"} for i in range(40)]
    prefix = text_set(tmp_path, rows=rows)
    cases = {
        "same": (rows, 0, "the same 40 documents, byte by byte"),
        "changed": (
            [*rows[:7], {"text": "def f7(a, b):\n    return b + 7\n"}, *rows[8:]],
            2,
            "document 7 differs",
        ),
        "longer": (
            [*rows, {"text": "x"}],
            2,
            "all 40 documents that both have are the same (40 documents here, 41 in",
        ),
        "shuffled": (rows[::-1], 2, "both hold the same documents in another order"),
    }
    for name, (other, code, says) in cases.items():
        text_set(tmp_path, name, other)
        capsys.readouterr()
        assert main([str(prefix), "--against", f"{tmp_path / name}.idx"]) == code
        assert says in " ".join(capsys.readouterr().out.split()), name
    # The older pair of files, and another width of tokens, hold the same documents.
    write(tmp_path / "a", SAMPLE[:1], 1000)
    write(tmp_path / "b_inputs_document", [SAMPLE[0][:1]], 100000)
    write(tmp_path / "b_targets_document", [SAMPLE[0][1:]], 100000)
    assert main([str(tmp_path / "a"), "--against", str(tmp_path / "b")]) == 0
    write(tmp_path / "c", [[([6, 7, 8], 1)]], 1000)
    assert main([str(tmp_path / "a"), "--against", str(tmp_path / "c")]) == 2
    assert "document 0 differs at token 0: context here, target there" in capsys.readouterr().out


def test_against_a_data_set_of_another_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the ids happen to be equal: they mean other texts."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "abc"}\n')
    for name, control in (("a", CONTROL), ("b", CONTROL[::-1])):
        tokenizer = train_tokenizer(tmp_path / f"{name}.tokenizer.json", control)
        options = ["--output-prefix", str(tmp_path / name), "--tokenizer", str(tokenizer), "--format", "text"]
        assert preprocess("--input", rows, "--workers", "1", *options) == 0
    capsys.readouterr()
    assert main([str(tmp_path / "a"), "--against", str(tmp_path / "b")]) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "different: made with another tokenizer" in said and "b.tokenizer.json" in said


@pytest.mark.slow
def test_plot(prefix: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert main([str(prefix), "--plot", str(tmp_path / "p.png")]) == 0
    assert (tmp_path / "p.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_plot_without_matplotlib_names_the_extra(
    prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SystemExit) as caught:
        run_command(lambda: main([str(prefix), "--plot", str(tmp_path / "p.png")]))
    assert caught.value.code == 2
    assert "pip install -e '.[plot]'" in capsys.readouterr().err
    assert not (tmp_path / "p.png").exists()


def test_no_such_row(prefix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_command(lambda: main([str(prefix), "--row", "100000"]))
    assert "no row 100000: epoch 0 has" in capsys.readouterr().err


def test_documents_send_nothing_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer_file = train_tokenizer(tmp_path / "tokenizer.json", CONTROL)
    rows = write_rows(tmp_path / "a.jsonl", [{"inputs": "a\x1b[2J\x9b31m", "outputs": "\u202eb\n\tc"}])
    preprocess(input=rows, output_prefix=tmp_path / "p", tokenizer=tokenizer_file, workers=1)
    for words in (["--sample", "0"], ["--row", "0", "--seq-length", "64"]):
        assert main([str(tmp_path / "p"), *words]) == 0
        shown = capsys.readouterr().out
        assert r"a\x1b[2J\x9b31m" in shown.replace("\n", "")
        assert r"\u202eb" in shown
        assert not set(shown) & {"\x1b", "\x9b", "\u202e"}
