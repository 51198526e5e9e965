"""Checks that commands, recipes and links in README and docs exist."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

from megatron_octo.cli import COMMANDS
from megatron_octo.commits.commands import build_parser as build_commits_parser
from megatron_octo.evaluate import build_parser
from megatron_octo.recipe.loading import load_recipe
from tests.places import PROJECT

README = PROJECT / "README.md"
PAGES = [README, *(PROJECT / f"{name}.md" for name in ("ARCHITECTURE", "CONTRIBUTING"))]
PAGES += sorted((PROJECT / "docs").glob("*.md"))


def commands(page: Path) -> list[str]:
    """Command lines of the ```bash blocks, with continued lines joined and comments dropped."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def words(page: Path) -> list[list[str]]:
    return [shlex.split(line, comments=True) for line in commands(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    for line in words(page):
        for word in line:
            if word.startswith("megatron_octo."):
                place = PROJECT / word.replace(".", "/")
                assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), line
            if word.startswith("benchmarks.") and line[1] == "-m":
                assert (PROJECT / (word.replace(".", "/") + ".py")).is_file(), line
            if re.fullmatch(r"(slurm|preprocess|convert|recipes|commits|demo|data_paths)/[\w/]+\.\w+", word):
                assert (PROJECT / word).is_file() or word.startswith("demo/out/"), line
        if "octo" in line:
            assert line[line.index("octo") + 1] in {*COMMANDS, "COMMAND", "--help"}, line
        if line[0] == "make":
            for target in line[1:]:
                assert re.search(rf"^{target}:", (PROJECT / "Makefile").read_text(), re.MULTILINE), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_training_commands_are_good_recipes(page: Path) -> None:
    """The recipe of every training command loads with the overrides that stand there."""
    for line in words(page):
        recipes = [word for word in line if re.fullmatch(r"recipes/\w+\.yaml", word)]
        if recipes and ("megatron_octo.train" in line or "sbatch" in line):
            overrides = [word for word in line if re.match(r"(run_dir|[a-z]+\.[a-z_]+)=", word)]
            load_recipe(PROJECT / recipes[0], overrides)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_of_evaluations_exist(page: Path) -> None:
    for line in words(page):
        if "megatron_octo.evaluate" in line:
            assert build_parser().parse_args(line[line.index("megatron_octo.evaluate") + 1 :]).command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_of_commits_exist(page: Path) -> None:
    for line in words(page):
        if "megatron_octo.commits" in line:
            given = line[line.index("megatron_octo.commits") + 1 :]
            assert build_commits_parser(given[0]).parse_args(given).command == given[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_readme_lists_every_command() -> None:
    text = README.read_text()
    assert [name for name in COMMANDS if f"python -m megatron_octo.{name}" not in text] == []


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_files_that_the_guides_name_exist(page: str) -> None:
    """Apart from those to be written, which have a name in capitals."""
    for name in re.findall(
        r"`((?:megatron_octo|tests|docs|recipes|benchmarks|data|training)/[\w/.]+)`",
        (PROJECT / page).read_text(),
    ):
        if not re.search(r"[A-Z]{2}", name):
            place = PROJECT / name
            assert place.exists() or (PROJECT / "megatron_octo" / name).exists(), name


def test_the_picture_is_current() -> None:
    """Run `make generated` after a change of the rooms."""
    script = runpy.run_path(str(PROJECT / "docs/architecture_svg.py"))
    assert script["TARGET"].read_text() == script["draw"]()


def test_every_recipe_is_listed() -> None:
    page = (PROJECT / "docs/recipes.md").read_text().split("## Recipes based on others")[0]
    variant = "finetune_santacoder_"
    for path in (PROJECT / "recipes").glob("*.yaml"):
        assert path.name in page or f"`_{path.stem.removeprefix(variant)}`" in page, path.name
