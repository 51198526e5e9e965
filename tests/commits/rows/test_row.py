import pytest

from megatron_octo.commits.rows.row import Row, join_kinds, kind_of, text_bytes
from tests.commits.rows.made import made_rows


def test_columns_survive_the_way_to_a_mapping_and_back() -> None:
    for row in made_rows(20):
        assert Row.parse(row.mapping()) == row


def test_repositories_become_distinct_and_sorted() -> None:
    assert Row.parse({"commit": "c", "repos": "b/x, a/y,b/x,"}).repos == "a/y,b/x"
    assert Row.parse({"commit": "c", "repos": ["b/x", "a/y", "b/x"]}).repo_names == ["a/y", "b/x"]
    assert Row.parse({"commit": "c", "repos": None}).repo_names == []


def test_empty_and_missing_contents_differ() -> None:
    row = Row.parse({"commit": "c", "old_contents": "", "new_contents": None})
    assert (row.old_contents, row.new_contents) == ("", None)
    assert Row.parse({"commit": "c"}).old_contents is None


def test_unknown_columns_are_signals() -> None:
    assert Row.parse({"commit": "c", "returncode": 0, "stderr": None}).signals == {"returncode": 0, "stderr": None}


@pytest.mark.parametrize("columns", [{}, {"commit": ""}, {"commit": None}, {"commit": 3}, {"commit": "c", "lang": 1}])
def test_other_columns_are_refused(columns: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="column"):
        Row.parse(columns)


def test_the_first_rule_that_drops_stays() -> None:
    row = Row("c").mark("short", "3 words").mark("long")
    assert (row.kept, row.drop, row.drop_why) == (False, "short", "3 words")


def test_published_columns_come_first_and_empty_others_are_absent() -> None:
    assert list(Row("c", signals={"a": 1, "b": None}).published())[-2:] == ["repos", "a"]


def test_kinds() -> None:
    assert [kind_of(value) for value in (None, [], True, 1, 1.5, "a", ["a"], [1])] == [
        None, None, "bool", "int", "float", "text", "texts", "ints",
    ]  # fmt: skip
    assert (join_kinds("int", "float"), join_kinds(None, "int"), join_kinds("text", None)) == ("float", "int", "text")
    for value in ({}, [1, "a"], [1.5]):
        with pytest.raises(ValueError, match=r"a list of|a value of"):
            kind_of(value)
    with pytest.raises(ValueError, match="kind int and of kind text"):
        join_kinds("int", "text")


def test_bytes_of_texts() -> None:
    assert [text_bytes(text) for text in (None, "", "abc", "é", "日本")] == [0, 0, 3, 2, 6]
