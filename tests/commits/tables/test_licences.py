"""Licences: expressions, headers, texts of licence files, and which rows the rule keeps."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_octo.commits.__main__ import main
from megatron_octo.commits.rows import Row
from megatron_octo.commits.tables.licences import (
    LicenceRule,
    accepted_licences,
    is_accepted,
    licence_of_text,
    plain_id,
    repository_licences,
    spdx_header,
)
from megatron_octo.common.errors import OctoError

ACCEPTED = accepted_licences()
NAMES = {"MIT": True, "Apache-2.0": True, "LGPL-2.1-or-later": True, "GPL-3.0-only": False, "LicenseRef-x": False}
_NAMED = st.sampled_from(sorted(NAMES.items()))
_EXCEPTED = _NAMED.map(lambda each: (f"{each[0]} WITH Classpath-exception-2.0", each[1]))
# Expressions with brackets around every part, and whether they hold.
EXPRESSIONS = st.recursive(
    st.one_of(_NAMED, _EXCEPTED),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda each: (f"({each[0][0]}) OR ({each[1][0]})", each[0][1] or each[1][1])),
        st.tuples(inner, inner).map(lambda each: (f"(({each[0][0]})and({each[1][0]}))", each[0][1] and each[1][1])),
    ),
    max_leaves=12,
)


def test_the_twelve_of_commitpack() -> None:
    assert len(ACCEPTED) == 12 and "lgpl-2.1" in ACCEPTED and "gpl-3.0" not in ACCEPTED


@settings(max_examples=150, deadline=None)
@given(EXPRESSIONS)
def test_expressions(expression: tuple[str, bool]) -> None:
    assert is_accepted(expression[0], ACCEPTED) is expression[1]


@pytest.mark.parametrize(
    ("expression", "good"),
    [
        ("GPL-3.0 AND MIT OR ISC", True),  # AND binds closer
        ("ISC OR GPL-3.0 AND MIT", True),
        ("GPL-3.0 OR MIT AND GPL-2.0", False),
        ("mit or gpl-3.0", True),
        ("MIT WITH", False),
        ("(MIT) WITH x", False),
        ("MIT MIT", False),
        ("MIT OR", False),
        ("OR MIT", False),
        ("MIT AND OR ISC", False),
        ("(MIT", False),
        ("MIT)", False),
        ("()", False),
        ("", False),
        ("MIT/Apache-2.0", False),
        ("(" * 20_000 + "MIT" + ")" * 20_000, True),
        (" OR ".join(["GPL-3.0"] * 50_000), False),
    ],
    ids=lambda value: str(value)[:24],
)
def test_parts_and_what_cannot_be_parsed(expression: str, good: bool) -> None:
    assert is_accepted(expression, ACCEPTED) is good


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.text(max_size=40), st.lists(st.sampled_from(["(", ")", "or", "AND", "WITH", "mit", "x"])).map(" ".join)
    )
)
def test_odd_texts_raise_nothing(text: str) -> None:
    is_accepted(text, ACCEPTED), spdx_header(f"SPDX-License-Identifier: {text}"), licence_of_text(text), plain_id(text)


@pytest.mark.parametrize(
    ("head", "found"),
    [
        ("# SPDX-License-Identifier: MIT\r\nimport os\n", "MIT"),
        ("/* SPDX-License-Identifier: GPL-2.0+ */", "GPL-2.0+"),
        ("<!-- SPDX-License-Identifier: MIT -->", "MIT"),
        ("(* SPDX-License-Identifier: ISC *)", "ISC"),
        ("// SPDX-License-Identifier: (MIT OR GPL-2.0)", "(MIT OR GPL-2.0)"),
        ("# SPDX-License-Identifier:\nMIT\n", None),
        ("x" * 4096 + "SPDX-License-Identifier: MIT", None),
        ("", None),
        (None, None),
    ],
)
def test_headers(head: str | None, found: str | None) -> None:
    assert spdx_header(head) == found


def test_ids_and_texts() -> None:
    assert [plain_id(each) for each in (" MIT ", "LGPL-2.1+", "GPL-2.0-or-later", "GPL-3.0-only")] == [
        "mit", "lgpl-2.1", "gpl-2.0", "gpl-3.0",
    ]  # fmt: skip
    assert licence_of_text("GNU LESSER General Public License\n\n  Version 2.1, February 1999") == "lgpl-2.1"
    assert licence_of_text("Redistribution and use in source and binary forms") == "unknown"


RULE = LicenceRule(ACCEPTED, {"a/table": "gpl-3.0", "a/two": "gpl-3.0,mit"})
OTHER, OWN = "# SPDX-License-Identifier: GPL-3.0-only\n", "# SPDX-License-Identifier: Apache-2.0\n"


@pytest.mark.parametrize(
    ("columns", "drop", "licence"),
    [
        ({"license": "mit"}, None, "mit"),
        ({"license": "MIT,isc"}, None, "isc,mit"),
        ({"license": "gpl-3.0"}, "licence", "gpl-3.0"),
        ({"license": "mit,gpl-3.0"}, "licence", "gpl-3.0,mit"),
        ({"license": "mit", "repos": "A/Table"}, "licence", "gpl-3.0"),  # the table comes before the row
        ({"repos": "a/two"}, "licence", "gpl-3.0,mit"),
        ({"license": None}, "licence_unknown", "unknown"),
        ({"license": "NOASSERTION"}, "licence_unknown", "unknown"),
        ({"license": "unknown", "new_contents": OWN}, None, "apache-2.0"),
        ({"license": "unknown", "old_contents": OWN}, None, "apache-2.0"),
        ({"license": "mit", "new_contents": OWN}, None, "mit"),
        ({"license": "mit", "new_contents": OTHER}, "licence_header", "mit"),
    ],
)
def test_which_rows_stay(columns: dict[str, str], drop: str | None, licence: str) -> None:
    found = RULE.apply(Row("c", **columns))
    assert (found.drop, found.license) == (drop, licence)


def test_looser_rules() -> None:
    assert LicenceRule(ACCEPTED, {}, keep_unknown=True).apply(Row("c")).kept
    assert LicenceRule(ACCEPTED, {}, keep_conflict=True).apply(Row("c", license="gpl-3.0,mit")).kept
    assert not LicenceRule(ACCEPTED, {}, keep_conflict=True).apply(Row("c", license="gpl-3.0,gpl-2.0")).kept


def test_a_table_of_repositories() -> None:
    rows = [("A/b, a/C", "MIT"), ("a/c", "gpl-3.0-only"), ("", "isc")]
    assert repository_licences(rows) == {"a/b": "mit", "a/c": "gpl-3.0,mit"}


def test_the_command(tmp_path: Path) -> None:
    source, table, target = tmp_path / "in.jsonl", tmp_path / "table.jsonl", tmp_path / "out.jsonl"
    rows = [{"commit": "a", "repos": "x/y"}, {"commit": "b", "repos": "x/z"}, {"commit": "c", "license": "isc"}]
    source.write_text("".join(json.dumps(each) + "\n" for each in rows))
    table.write_text('{"repo_name": "X/Y", "license": "MIT"}\n')
    command = ["licences", str(source), "--output", str(target), "--repositories", str(table)]
    assert main([*command, "--accept", "MIT"]) == 0
    found = [json.loads(line) for line in target.read_text().splitlines()]
    assert [each.get("drop") for each in found] == [None, "licence_unknown", "licence"]
    target.unlink()
    table.write_text('{"repo_name": "X/Y", "license": "MIT"}\n{"repo_name": 1}\n')
    with pytest.raises(OctoError) as caught:
        main(command)
    assert "table.jsonl" in str(caught.value) and "2" in str(caught.value) and not target.exists()
