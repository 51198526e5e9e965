"""``commits oasst``: the shapes of conversations, and what is dropped."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from megatron_octo.commits.__main__ import main
from megatron_octo.commits.sources.oasst import Maker, Settings, phrases
from megatron_octo.common.errors import OctoError
from tests.commits.sources.made import read_lines, write_lines


def flat(*texts: str, first: str = "user") -> list[dict[str, Any]]:
    roles = [first, "assistant"] * len(texts)
    return [{"text": text, "from": role, "message_id": n} for n, (text, role) in enumerate(zip(texts, roles))]


def listed(*texts: str) -> dict[str, Any]:
    return {"messages": [{"role": each["from"], "content": each["text"]} for each in flat(*texts)]}


def reply(text: str, rank: int | None, *replies: dict[str, Any], **more: Any) -> dict[str, Any]:
    role = "prompter" if more.pop("asks", False) else "assistant"
    return {"text": text, "role": role, "message_id": text, "rank": rank, "replies": list(replies), **more}


def tree(*replies: dict[str, Any], lang: str = "en") -> dict[str, Any]:
    return {"message_tree_id": "t", "prompt": {**reply("q", None, *replies, asks=True), "lang": lang}}


def test_the_phrases_are_those_of_the_original() -> None:
    assert len(phrases()) == 233 and len({each.lower() for each in phrases()}) == 229
    assert {"LAION", "September 2021", "como modelo de lenguaje AI", r"filter\_bad\_language"} <= set(phrases())


def test_shapes_give_the_same_pair() -> None:
    make = Maker(Settings(()))
    shapes = [flat("q", "a", "more", "end"), listed("q", "a", "more", "end"), tree(reply("a", 0))]
    assert {(each.inputs, each.outputs, each.drop) for each in map(make, shapes)} == {("q", "a", None)}


def test_a_tree_gives_the_best_reply_that_is_not_deleted() -> None:
    replies = reply("c", None), reply("b", 1, reply("LAION", 0, asks=True)), reply("a", 0, deleted=True)
    found = Maker(Settings(()))(tree(*replies))
    assert (found.outputs, found.signals) == ("b", {"natural_language": "en", "messages": 3})
    assert Maker(Settings(("laion",)))(tree(*replies)).drop_why == "laion"
    assert Maker(Settings(("laion",), whole=False))(tree(*replies)).drop is None


@pytest.mark.parametrize(
    ("value", "drop", "why"),
    [
        (flat("q"), "no_answer", "begins with user"),
        ([], "no_answer", "begins with nothing"),
        (flat("q", "a", first="assistant"), "no_answer", "begins with assistant, assistant"),
        (flat("q", "As An AI, I will"), "phrase", "an AI"),
        (flat("q a", "i language"), "phrase", "a i"),  # messages are joined by a space
        (flat("q", " "), "empty_output", None),
        (flat("q", "a"), None, None),
    ],
)
def test_drops(value: Any, drop: str | None, why: str | None) -> None:
    found = Maker(Settings(("an AI", "a i")))(value)
    assert (found.drop, found.drop_why) == (drop, why)


def test_natural_languages() -> None:
    make = Maker(Settings((), ("en", "es")))
    values = tree(reply("a", 0)), tree(reply("a", 0), lang="de"), flat("q", "a")
    assert [make(each).drop_why for each in values] == [None, "de", "not stated"]


def test_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [flat("q", "```py\nx\n```"), listed("q", "LAION says"), tree(reply("a", 0)), flat("q")]
    source = write_lines(tmp_path / "in.jsonl", rows)
    packed = tmp_path / "in.jsonl.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    for path in (source, packed):
        target = tmp_path / f"{path.name}.out.jsonl"
        assert main(["oasst", str(path), "--output", str(target), "--jobs", "1"]) == 0
        said = capsys.readouterr().out
        assert "4 rows in, 2 kept; dropped here: 1 no_answer, 1 phrase" in said and "languages: Python 1\n" in said
        found = read_lines(target)
        assert [each.get("drop") for each in found] == [None, "phrase", None, "no_answer"]
        assert (found[0]["lang"], found[0]["source"], found[0]["id"]) == ("Python", "oasst", "0")


@pytest.mark.slow
def test_phrases_of_a_file(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [flat("q", "LAION"), flat("q", "Zebra")])
    for name, text in (("a.yaml", "phrases: [zebra]\n"), ("a.txt", "zebra\n\n")):
        (tmp_path / name).write_text(text)
        target = tmp_path / f"{name}.jsonl"
        assert main(["oasst", str(source), "--output", str(target), "--drop", "--phrases", str(tmp_path / name)]) == 0
        assert [each["outputs"] for each in read_lines(target)] == ["LAION"]
    (tmp_path / "b.yaml").write_text("phrases: ['']\n")
    with pytest.raises(OctoError, match="not a list of phrases"):
        main(["oasst", str(source), "--output", str(tmp_path / "no"), "--phrases", str(tmp_path / "b.yaml")])


@pytest.mark.parametrize("bad", ["3", '{"text": "q"}', '[{"text": "q"}]', '{"prompt": {"text": "q"}}', "[", '["q"]'])
def test_a_bad_row_names_its_line(tmp_path: Path, bad: str) -> None:
    source = write_lines(tmp_path / "in.jsonl", [flat("q", "a")])
    source.write_text(source.read_text() + bad + "\n")
    with pytest.raises(OctoError) as error:
        main(["oasst", str(source), "--output", str(tmp_path / "out.jsonl"), "--jobs", "1"])
    assert str(error.value.where) == f"{source}:2"
    assert not (tmp_path / "out.jsonl").exists()
