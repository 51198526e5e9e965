"""``commits report``: counts add up over stages and languages, rows are shown as text, the card is the hub's."""

import html.parser
import json
import re
from pathlib import Path

import pytest
import yaml

from megatron_octo.commits.__main__ import main
from megatron_octo.commits.report.card import size_category
from megatron_octo.commits.report.collect import collect
from megatron_octo.commits.report.page import histogram
from megatron_octo.commits.rows import Row, Writer, read_rows
from megatron_octo.common.errors import OctoError

pytestmark = pytest.mark.slow

EVIL = "<script>alert(1)</script><img src=x onerror=y>\u202e|\x1b[31m"


def make_chain(folder: Path) -> list[str]:
    """Rows of several languages and fates through four stages."""
    with Writer(folder / "in.parquet") as writer:
        for number in range(40):
            subject = f"Add {EVIL} to part {number} of it" if number == 3 else f"Add a check of part {number} here"
            writer.write(
                Row(
                    f"{number % 37:040x}",
                    "a/b.css" if number % 4 else "a/b.unknown",
                    "a/b.css" if number % 4 else "a/b.unknown",
                    None if number == 5 else f"old {number}\nsame\n",
                    f"new {number}\nsame\n{EVIL if number == 3 else ''}",
                    subject if number % 5 else "fix",
                    license="mit" if number % 3 else "mit,isc",
                    repos="a/b",
                )
            )
    (folder / "bench.jsonl").write_text(json.dumps({"task_id": "A/1", "prompt": "x y z " * 30}) + "\n")
    stages = (
        ("languages",),
        ("filter", "--no-tokens"),
        ("dedup",),
        ("decontaminate", "--benchmark", f"made={folder / 'bench.jsonl'}", "--drop"),
    )
    outputs, before = [], str(folder / "in.parquet")
    for number, (name, *words) in enumerate(stages):
        output = str(folder / f"{number}-{name}")
        assert main([name, before, "--output", output, *words]) == 0
        outputs.append(output)
        before = output
    return outputs


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return make_chain(tmp_path_factory.mktemp("chain"))


def test_counts_add_up(chain: list[str]) -> None:
    report = collect([Path(each) for each in chain], 5, 0)
    rows = list(read_rows(chain[2]))
    assert sum(each.rows for each in report.amounts.values()) == len(rows) == 40
    languages = {lang for lang, _ in report.amounts}
    assert languages == {"CSS", "unknown"}
    for number, stage in enumerate(report.stages):
        assert sum(report.after(number + 1, lang).rows for lang in languages) == stage.kept
    assert report.total.rows == report.stages[-1].kept == sum(row.kept for row in read_rows(chain[3])) > 10
    assert sum(report.verbs.values()) == sum(report.licences.values()) == report.total.rows
    assert all(sum(bins) == report.total.rows for name, bins in report.histograms.items() if name != "tokens")
    assert report.verbs == {"add": report.total.rows} and set(report.licences) == {"mit", "mit,isc"}
    assert report.empty == 0 or report.empty == 1


def test_samples_are_chosen_by_a_hash(chain: list[str]) -> None:
    outputs = [Path(each) for each in chain]
    five, nine = collect(outputs, 5, 0).samples, collect(outputs, 9, 0).samples
    assert [row.commit for row in five] == [row.commit for row in nine][:5]
    assert [row.commit for row in collect(outputs, 5, 1).samples] != [row.commit for row in five]
    assert collect(outputs, 0, 0).samples == []


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_and_the_card(chain: list[str], tmp_path: Path) -> None:
    assert main(["report", *chain, "--output", str(tmp_path), "--name", f"made {EVIL}", "--samples", "40"]) == 0
    page, card = (tmp_path / "report.html").read_text(), (tmp_path / "README.md").read_text()
    tags = Tags()
    tags.feed(page)
    assert not tags.open and not tags.seen & {"script", "img", "link", "iframe"}
    assert "default-src 'none'" in page.replace("&#x27;", "'").replace("&#39;", "'")
    assert "\x1b" not in page + card and "\u202e" not in page + card
    assert "57,700,105" in page and "702,062" in card
    assert page.count("<h3>") == int(re.search(r"<p>(\d+) rows", page)[1])  # type: ignore[index]
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["license"] == ["isc", "mit"] and header["size_categories"] == ["n<1K"]
    assert header["configs"] == [{"config_name": "default", "data_files": "*.parquet"}]
    assert all(line.count("|") - line.count("\\|") >= 3 for line in card.splitlines() if line.startswith("|"))


def test_a_recipe_names_the_outputs(tmp_path: Path) -> None:
    make_chain(tmp_path)
    recipe = tmp_path / "made.yaml"
    recipe.write_text(f"output: {tmp_path}/out\ninputs: {tmp_path}/in.parquet\nstages: [languages, dedup]\n")
    main(["run", str(recipe)])
    assert main(["report", str(recipe), "--output", str(tmp_path / "report")]) == 0
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"report.html", "README.md"}


def test_outputs_of_no_chain(chain: list[str], tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("")
    for outputs, what in (([str(tmp_path / "x.jsonl")], "no manifest"), ([chain[1], chain[0]], "rows in, ")):
        with pytest.raises(OctoError, match=what):
            main(["report", *outputs, "--output", str(tmp_path / "out")])
    (tmp_path / "x.jsonl.stage.json").write_text('{"stage": "x"}')
    with pytest.raises(OctoError, match="not the manifest"):
        main(["report", str(tmp_path / "x.jsonl"), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("rows", "word"), [(0, "n<1K"), (1000, "1K<n<10K"), (999_999, "100K<n<1M"), (10**10, "n>10B")])
def test_words_of_sizes(rows: int, word: str) -> None:
    assert size_category(rows) == word


def test_an_empty_histogram() -> None:
    assert "<svg" in histogram([0] * 24)
