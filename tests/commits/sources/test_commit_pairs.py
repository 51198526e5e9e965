"""Commits as pairs: the templates of preprocessing, as text."""

from pathlib import Path

import pytest

from megatron_octo.commits.__main__ import main
from megatron_octo.commits.sources.commit_pairs import Maker, Settings, settings_of
from megatron_octo.common.errors import OctoError
from megatron_octo.data.dataset.indexed import CONTEXT
from megatron_octo.data.text.formats import FORMATS, Keys, draft_maker
from megatron_octo.data.text.tokenizer import Tokenizer
from tests.commits.sources.made import commit, read_lines, write_lines
from tests.places import SHARED

PLAIN = [name for name in FORMATS if name.startswith("commits") and "filename" not in name]


def test_the_default_is_the_form_of_the_instruction_data() -> None:
    found = Maker(Settings())(commit(1))
    assert (found.inputs, found.outputs) == ("Raise 1\nx = 1\n", "x = 2\n")
    assert (found.lang, found.license, found.id) == ("Python", "mit", f"{1:040x}")


def test_missing_contents() -> None:
    make = Maker(Settings())
    assert make(commit(1, old_contents=None)).inputs == "Raise 1\n"
    assert make(commit(1, new_contents=None)).drop == "no_contents"
    assert make(commit(1, new_contents="")).drop == "empty_output"
    assert make(commit(1, subject="", message="All\n")).inputs.startswith("All\n")
    assert make(commit(1, drop="verb", drop_why="w")).drop == "verb"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs a tokenizer")
@pytest.mark.parametrize("name", PLAIN)
def test_pairs_spell_what_preprocessing_makes(name: str) -> None:
    tokenizer = Tokenizer(str(SHARED / "starcoder_tokenizer.json"))
    draft = draft_maker(name, Keys(), tokenizer)(commit(7), 0)
    wanted = ["", ""]
    spelled = {
        tokenizer.control_id(each, "test"): each for each in ("<commit_before>", "<commit_msg>", "<commit_after>")
    }
    for mode, segments in draft:
        wanted[mode != CONTEXT] += "".join(
            each if isinstance(each, str) else spelled.get(each, "") for each in segments if each != tokenizer.eod_id
        )
    found = Maker(Settings(name))(commit(7))
    assert [found.inputs, found.outputs] == wanted


def test_chance_depends_on_the_commit_and_the_seed_alone() -> None:
    makers = [Maker(Settings("commits_filename", seed=seed)) for seed in (1, 1, 2)]
    found = [[make(commit(n)).inputs.startswith("<filename>") for n in range(400)] for make in makers]
    assert found[0] == found[1] != found[2]
    assert 160 < sum(found[0]) < 240


@pytest.mark.parametrize("name", ["chat", "text", "nosuch"])
def test_formats_without_pairs(name: str) -> None:
    with pytest.raises(OctoError):
        settings_of(name, 42, "a")


def test_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_lines(tmp_path / "in.jsonl", [commit(1), commit(2, drop="verb"), commit(3, new_contents="")])
    target = tmp_path / "out.jsonl"
    words = ["pairs", str(source), "--output", str(target), "--format", "commits", "--jobs", "1", "--drop"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "3 rows in, 1 kept; dropped here: 1 empty_output;" in said and "--allow-special" in said
    assert [each["file"] for each in read_lines(target)] == ["a/1.py"]
