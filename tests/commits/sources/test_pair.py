"""Pairs of the columns of others."""

import pytest

from megatron_octo.commits.rows import Writer
from megatron_octo.commits.sources.pair import COLUMNS, NAMES, Pair


@pytest.mark.parametrize("names", NAMES)
def test_names_of_columns(names: tuple[str, str]) -> None:
    found = Pair.parse({names[0]: "q", names[1]: "a", "other": 1, "lang": "C"})
    assert (found.inputs, found.outputs, found.lang, found.signals) == ("q", "a", "C", {"other": 1})
    assert found.id == Pair("q", "a").id != Pair("qa", "").id


def test_an_input_follows_its_instruction() -> None:
    assert Pair.parse({"instruction": "Sort", "input": "3 1", "output": "1 3"}).inputs == "Sort\n3 1"
    assert Pair.parse({"instruction": "Sort", "input": "", "output": "1 3"}).inputs == "Sort"


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"instruction": "q"}, "no pair of columns.*instruction and output; the row has 'instruction'"),
        ({"inputs": "q", "outputs": 3}, "not text"),
        ({"instruction": "q", "input": 3, "output": "a"}, "not text"),
        ({"inputs": "q", "outputs": "a", "lang": 3}, "'lang' holds int"),
    ],
)
def test_bad_rows(columns: dict[str, object], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Pair.parse(columns)


def test_blank_texts_are_dropped() -> None:
    assert Pair(" \n", "a").checked().drop == "empty_input" and Pair("q", "").checked().drop == "empty_output"
    assert Pair("q", "a").checked().drop is None


def test_parquet_has_all_columns(tmp_path: object) -> None:
    import pyarrow.parquet

    path = f"{tmp_path}/a.parquet"
    with Writer(path, {"n": "int"}, columns=COLUMNS) as writer:
        writer.write(Pair("q", "a", signals={"n": 1}))
    table = pyarrow.parquet.read_table(path)
    assert table.column_names == [*COLUMNS, "n", "drop", "drop_why"]
    assert table.to_pylist()[0]["inputs"] == "q" and writer.tally.content_bytes == 2
