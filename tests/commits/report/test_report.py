"""``commits report``: the page, its twin in Markdown and the card show the counts, and rows as text."""

import html.parser
import json
import os
import re
from pathlib import Path

import pytest
import yaml

from megatron_octo.commits.__main__ import main
from megatron_octo.commits.report.card import licence_ids, size_category
from megatron_octo.commits.report.collect import Report, collect
from megatron_octo.commits.report.command import write
from megatron_octo.commits.report.counts import Amount, Counts
from megatron_octo.commits.report.markdown import escape, markdown, sample
from megatron_octo.commits.report.page import histogram
from megatron_octo.commits.report.tables import Table, tables, tokens
from megatron_octo.commits.rows import Row
from megatron_octo.common.errors import OctoError
from tests.commits.report.made import EVIL, made_row, make_chain, write_rows

BENCH = "the quick brown fox jumps over the lazy dog and runs away from it " * 3
FILES = {"report.html", "report.md", "README.md"}


def make_rows() -> list[Row]:
    """Rows of several fates: unknown languages, short subjects, duplicates, benchmarks' texts, hostile ones."""
    rows = []
    for number in range(40):
        name = "a/b.css" if number % 4 else "a/b.unknown"
        twin = number % 37  # three rows are twins of others
        subject = f"Add a check of part {twin} here" if number % 5 else "fix"
        row = Row(f"{number:040x}", name, name, f"old {twin}\nsame\n", f"new {twin}\nsame\n", subject, repos="a/b")
        row.license = "mit" if number % 3 else "mit,made-up"
        rows.append(row)
    rows[3].subject, rows[3].new_contents = f"Add {EVIL} to it now", f"new {EVIL}\n```\n</pre>\nsame"
    rows[6].new_contents = f"new text\n{BENCH}\n"
    return rows


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("chain")
    before = str(write_rows(folder / "in.parquet", make_rows()))
    (folder / "bench.jsonl").write_text(json.dumps({"task_id": "A/1", "prompt": BENCH}) + "\n")
    stages = (
        ("languages",),
        ("filter", "--no-tokens", "--drop"),
        ("dedup",),
        ("decontaminate", "--benchmark", f"made={folder / 'bench.jsonl'}", "--drop"),
    )
    outputs = []
    for number, (name, *words) in enumerate(stages):
        output = str(folder / f"{number}-{name}")
        assert main([name, before, "--output", output, "--jobs", "1", *words]) == 0
        outputs.append(output)
        before = output
    return outputs


@pytest.fixture(scope="module")
def report(chain: list[str]) -> Report:
    return collect([Path(each) for each in chain], 40, 0)


def column(table: Table, name: str) -> list[int]:
    place = list(table.head).index(name)
    return [int(row[place].replace(",", "")) for row in table.rows]


@pytest.mark.slow
def test_tables_add_up(report: Report) -> None:
    by_title = {table.title: table for table in tables(report)}
    assert all(len(row) == len(table.head) for table in by_title.values() for row in table.rows)
    summed = {"Languages": ["before", *(f"after {stage.name}" for stage in report.stages)]}
    summed |= {f"Languages: {stage.name}": ["before", "after", "dropped"] for stage in report.stages}
    summed |= {"Licences": ["rows"], "First words of subjects": ["rows"]}
    for title, names in summed.items():
        for name in names:
            *parts, whole = column(by_title[title], name)
            assert sum(parts) == whole, (title, name)
    assert column(by_title["Languages"], "before")[-1] == 40 == column(by_title["Stages"], "rows before")[0]
    assert column(by_title["Stages"], "rows after")[:-1] == column(by_title["Stages"], "rows before")[1:]
    for stage in report.stages:
        reasons = re.findall(r"(\d+) \w+", by_title[f"Languages: {stage.name}"].rows[-1][3])
        assert sum(int(each) for each in reasons) == stage.before - stage.kept
    assert sum(column(by_title["Duplicates"], "rows dropped")) == sum(report.stages[2].dropped.values()) > 0
    assert by_title["Contamination"].rows == [("made", "1")]
    assert by_title["Rows with texts of benchmarks"].rows[0][:2] == (f"{6:040x}"[:12], "a/b.css")
    assert by_title["OctoPack's data"].rows[1:] == [
        ("CommitPack", "57,700,105", "350", f"{3_709_175_780 * 1024 / 1e6:,.1f}"),
        ("CommitPackFT", "702,062", "277", f"{1_545_020 * 1024 / 1e6:,.1f}"),
    ]


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.slow
def test_the_three_files(chain: list[str], tmp_path: Path) -> None:
    words = ["--name", f"made {EVIL}", "--samples", "40", "--license-note", f"ask {EVIL}", "--files", "data/*.parquet"]
    assert main(["report", *chain, "--output", str(tmp_path), *words]) == 0
    assert {path.name for path in tmp_path.iterdir()} == FILES
    page, twin, card = ((tmp_path / name).read_text() for name in ("report.html", "report.md", "README.md"))
    tags = Tags()
    tags.feed(page)
    assert not tags.open and not tags.seen & {"script", "img", "link", "iframe", "a"}
    assert "default-src 'none'" in page.replace("&#x27;", "'")
    for text in (page, twin, card):
        assert "\x1b" not in text and "\u202e" not in text
        assert "57,700,105" in text and "702,062" in text and "ask" in text
    assert page.count("<h3>") == twin.count("\n### ") == int(re.search(r"<p>(\d+) rows", page)[1])  # type: ignore[index]
    _, header, body = card.split("---\n", 2)
    found = yaml.safe_load(header)
    assert found["license"] == ["mit", "other"] and found["size_categories"] == ["n<1K"]
    assert found["configs"] == [{"config_name": "default", "data_files": "data/*.parquet"}]
    for line in [*body.splitlines(), *re.sub(r"(?s)\n(````*)diff\n.*?\n\1\n", "\n", twin).splitlines()]:
        plain = re.sub(r"`[a-z.]+`", "", line)  # the card's own words
        assert not re.search(r"(?<!\\)[<\[`!~]", plain)
        assert not re.search(r"(?<!\\)://|www(?<!\\)\.", line)


@pytest.mark.slow
def test_the_same_report_each_time(chain: list[str], tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert main(["report", *chain, "--output", str(tmp_path / name)]) == 0
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.slow
def test_a_recipe_names_the_outputs(tmp_path: Path) -> None:
    write_rows(tmp_path / "in.parquet", make_rows())
    recipe = tmp_path / "made.yaml"
    recipe.write_text(f"output: {tmp_path}/out\ninputs: {tmp_path}/in.parquet\nstages: [languages, dedup]\n")
    main(["run", str(recipe)])
    assert main(["report", str(recipe), "--output", str(tmp_path / "report")]) == 0
    assert {path.name for path in (tmp_path / "report").iterdir()} == FILES


def test_bad_calls_leave_nothing(tmp_path: Path) -> None:
    output = make_chain(tmp_path, [made_row(1)], [False] * 3)[0]
    where = ["--output", str(tmp_path / "out")]
    for words in (["--samples", "-1"], ["--samples", "10000"], ["--seed", "-1"], ["--tokenizer", "/nowhere"]):
        with pytest.raises((OctoError, FileNotFoundError)):
            main(["report", str(output), *where, *words])
    with pytest.raises(OctoError, match="no manifest"):
        main(["report", str(tmp_path / "in.jsonl"), *where])
    assert not (tmp_path / "out").exists()


def test_old_files_stay_until_all_new_ones_are_written(tmp_path: Path) -> None:
    def broken() -> object:
        yield "new"
        raise ValueError

    write(tmp_path, {"a": ["old"], "b": ["old"]})
    with pytest.raises(ValueError):
        write(tmp_path, {"a": ["new"], "b": broken()})  # type: ignore[dict-item]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old", "b": "old"}
    with pytest.raises(ValueError):
        write(tmp_path / "folder", {"b": broken()})  # type: ignore[dict-item]
    (tmp_path / "b").unlink()
    (tmp_path / "b").mkdir()
    with pytest.raises(OctoError, match="a folder"):
        write(tmp_path, {"a": ["new"], "b": ["new"]})
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a", "b"] or os.listdir(tmp_path) == ["b", "a"]


def test_no_rows(tmp_path: Path) -> None:
    report = collect(make_chain(tmp_path, [], [False] * 3), 20, 0)
    assert report.total == Amount() and "0 rows" in "".join(markdown(report, "made"))
    assert "<svg" in histogram([0] * 24)
    assert licence_ids(report.licence_names) == ["unknown"]


def test_many_languages_are_summed_in_the_last_lines(tmp_path: Path) -> None:
    rows = [made_row(number) for number in range(1, 2500)]
    for number, row in enumerate(rows):
        row.lang = f"language {number}"
    for table in tables(collect(make_chain(tmp_path, rows, [False] * 3), 0, 0)):
        assert len(table.rows) <= 402
        if table.title == "Languages":
            *parts, whole = column(table, "after three")
            assert sum(parts) == whole > 1000


@pytest.mark.parametrize(
    ("rows", "word"),
    [(0, "n<1K"), (1000, "1K<n<10K"), (999_999, "100K<n<1M"), (10**10, "10B<n<100B"), (10**12, "n>1T")],
)
def test_words_of_sizes(rows: int, word: str) -> None:
    assert size_category(rows) == word


def test_words_of_tokens() -> None:
    assert [tokens(each) for each in (Amount(), Amount(2), Amount(2, 0, 5, 1), Amount(2, 0, 5000, 2))] == [
        "0",
        "-",
        "at least 5",
        "5,000",
    ]


def test_licences_that_the_hub_does_not_know_are_other() -> None:
    assert licence_ids(Counts({"mit": 1, "made-up": 2, "isc": 1, "(others)": 1})) == ["isc", "mit", "other"]


def test_text_in_markdown() -> None:
    assert escape("a|b <c> [d](e) http://x www.y 1.0 www") == (r"a\|b \<c\> \[d\](e) http\://x www\.y 1.0 www")
    assert escape("two\nlines") == r"two\\nlines"
    fenced = sample(Row("a", old_contents="", new_contents="````\nx", subject="# y"))
    assert fenced.count("`````") == 2 and r"### \# y" in fenced
