"""Counts by language and stage: they are those of the rows' fates, whichever outputs hold the dropped rows."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from megatron_octo.commits.report.collect import ByLanguage, collect, token_counter
from megatron_octo.commits.report.counts import Amount
from megatron_octo.commits.report.stages import owners, read_chain, spans
from megatron_octo.commits.rows import Row, read_rows
from megatron_octo.common.errors import OctoError
from tests.commits.report.made import STAGES, made_row, make_chain, write_rows
from tests.places import SHARED

ROWS = 400
Rules = Sequence[tuple[str, dict[str, int]]]
# A rule by which two stages drop: rows of the second one cannot be told by the rule.
TWICE: Rules = (("one", {"same": 3}), ("two", {"other": 7}), ("three", {"same": 11}))


def fate(number: int, stages: Rules) -> tuple[int, str]:
    """Return the stage that drops a row and the rule; the number of stages if none does."""
    for place, (_, rules) in enumerate(stages):
        for rule, by in rules.items():
            if number % by == 0:
                return place, rule
    return len(stages), ""


def expected(rows: Sequence[Row], stages: Rules, place: int) -> tuple[ByLanguage, dict[tuple[str, str], Amount]]:
    """Return what is kept before a stage, and what it drops, by a plain walk over the rows."""
    before: ByLanguage = {}
    dropped: dict[tuple[str, str], Amount] = {}
    for row in rows:
        at, rule = fate(row.signals["number"], stages)
        size = sum(len((text or "").encode()) for text in (row.old_contents, row.new_contents))
        if at >= place:
            before.setdefault(row.lang or "unknown", Amount()).note(size, row.signals["tokens"])
        if at == place:
            dropped.setdefault((row.lang or "unknown", rule), Amount()).note(size, row.signals["tokens"])
    return before, dropped


@pytest.mark.parametrize("left_out", list(itertools.product([False, True], repeat=3)))
@pytest.mark.parametrize("stages", [STAGES, TWICE], ids=["rules of their own", "a rule twice"])
def test_flows_are_the_fates_of_rows(tmp_path: Path, left_out: Sequence[bool], stages: Rules) -> None:
    made = [made_row(number) for number in range(1, ROWS)]
    outputs = make_chain(tmp_path, made, left_out, stages)
    report = collect(outputs, 3, 0)
    for place, (stage, flow) in enumerate(zip(report.stages, report.flows, strict=True)):
        before, dropped = expected(made, stages, place)
        assert flow.after == expected(made, stages, place + 1)[0]
        assert flow.before == (None if place == 0 and left_out[0] else before)
        told = not left_out[place] and (place < 2 or stages is STAGES or left_out[0] or left_out[1])
        assert flow.dropped == (dropped if told else None)
        assert sum(each.rows for each in before.values()) == stage.before
        assert stage.before - stage.kept == sum(each.rows for each in dropped.values())
    assert report.total.rows == report.stages[-1].kept
    for counts in (report.verbs, report.licences, *report.histograms.values()):
        total = sum(counts.values() if isinstance(counts, dict) else counts)
        assert total in (report.total.rows, report.total.counted)


def test_the_fewest_outputs_are_read(tmp_path: Path) -> None:
    made = [made_row(number) for number in range(1, 50)]
    for left_out, read in (((0, 0, 0), [2]), ((0, 1, 0), [2, 0]), ((1, 1, 1), [2, 1, 0]), ((1, 0, 0), [2])):
        folder = tmp_path / "".join(map(str, left_out))
        folder.mkdir()
        stages = read_chain(make_chain(folder, made, [bool(each) for each in left_out]))
        assert [span.last for span in spans(stages)] == read
        assert set(owners(stages, spans(stages)[0])) <= {rule for _, rules in STAGES for rule in rules}


def test_rows_dropped_before_the_first_stage_are_none_of_its_rows(tmp_path: Path) -> None:
    made = [made_row(number) for number in range(1, 100)]
    outputs = make_chain(tmp_path, made, [False] * 3)
    part = collect(outputs[1:], 0, 0)
    whole = collect(outputs, 0, 0)
    assert part.flows == whole.flows[1:]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_files_as_outputs(tmp_path: Path, suffix: str) -> None:
    made = [made_row(number) for number in range(1, 100)]
    for name in ("files", "folders"):
        (tmp_path / name).mkdir()
    files = make_chain(tmp_path / "files", made, [False, True, False], suffix=suffix)
    folders = make_chain(tmp_path / "folders", made, [False, True, False])
    assert collect(files, 5, 0).flows == collect(folders, 5, 0).flows


def test_facts_of_the_rows_that_are_left(tmp_path: Path) -> None:
    rows = [made_row(number) for number in (1, 2, 4)]
    rows[0].new_contents = rows[0].old_contents
    rows[1].old_contents, rows[2].new_contents = "", "x" * 1_000_001
    rows[2].message = "y" * 10_001
    report = collect(make_chain(tmp_path, rows, [False] * 3), 20, 0)
    assert list(report.facts.values()) == [1, 0, 1, 1, 1]
    assert report.verbs == {"add": 3} and report.licence_names == {"mit": 3, "isc": 2}
    assert len(report.samples) == 2  # without the large one


def test_changed_outputs_are_refused(tmp_path: Path) -> None:
    made = [made_row(number) for number in range(1, 100)]
    outputs = make_chain(tmp_path, made, [False] * 3, suffix=".jsonl")
    rows = list(read_rows(outputs[-1]))
    for what, changed in {
        "kept rows, but": rows[:1] + rows,
        "rows of 'elevenths', but": [row for row in rows if row.drop != "elevenths"],
        "which its manifest does not count": [Row("f" * 40).mark("new"), *rows],
    }.items():
        write_rows(outputs[-1], changed)
        with pytest.raises(OctoError, match=what):
            collect(outputs, 0, 0)


def test_outputs_of_no_chain(tmp_path: Path) -> None:
    made = [made_row(number) for number in range(1, 100)]
    outputs = make_chain(tmp_path, made, [False] * 3)
    for order in ([1, 0, 2], [0, 0], [0, 2]):
        with pytest.raises(OctoError, match="rows in"):
            collect([outputs[place] for place in order], 0, 0)
    manifest = outputs[0] / "stage.json"
    found = json.loads(manifest.read_text())
    for name, value in {"dropped": {}, "kept": -1, "dropped_here": [], "rows_in": None, "settings": 3}.items():
        manifest.write_text(json.dumps(found | {name: value}))
        with pytest.raises(OctoError, match=r"do not add up|not the manifest"):
            collect(outputs[:1], 0, 0)
    (tmp_path / "x.jsonl").write_text("")
    with pytest.raises(OctoError, match="no manifest"):
        collect([tmp_path / "x.jsonl"], 0, 0)


@pytest.mark.slow
def test_tokens_are_those_of_the_filter(tmp_path: Path) -> None:
    tokenizer, data = SHARED / "starcoder_tokenizer.json", SHARED / "commits.jsonl.gz"
    if not tokenizer.exists() or not data.exists():
        pytest.skip("needs the shared data")
    from megatron_octo.commits.__main__ import main

    words = ["--output", str(tmp_path / "out"), "--tokenizer", str(tokenizer), "--jobs", "1"]
    assert main(["filter", str(data), *words]) == 0
    stages = read_chain([tmp_path / "out"])
    count = token_counter(tokenizer, stages)
    known = [row for row in read_rows(tmp_path / "out") if row.signals.get("tokens") is not None]
    assert known
    for row in known:
        tokens = row.signals.pop("tokens")
        assert count(row) == tokens
    report = collect([tmp_path / "out"], 20, 0, tokenizer)
    before = report.flows[0].before
    assert before is not None and all(each.counted == each.rows for each in before.values())
    assert sum(each.rows for each in before.values()) == 1991
