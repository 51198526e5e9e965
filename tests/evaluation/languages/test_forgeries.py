"""No program passes that does not solve its problem, whoever starts the harness."""

import importlib
import os

import pytest

from megatron_octo.evaluation.records import Kind
from tests.evaluation.languages.compiled_rows import RIGHT, WRONG, judge, judge_of, kinds_as_user

LANGUAGES = ("cpp", "go", "rust")
HARMLESS = (Kind.INFRASTRUCTURE, Kind.PASSED)  # neither may come of a forgery


def forgeries(language: str) -> dict[str, str]:
    """Return the forgeries of a language by what they do."""
    found: dict[str, str] = importlib.import_module(f"tests.evaluation.languages.forgeries.{language}").FORGERIES
    return found


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    """Each compiled language whose compiler is here."""
    name: str = request.param
    if not judge_of(name).toolchain().found:
        pytest.skip(f"no toolchain for {name}")
    return name


@pytest.mark.slow
def test_no_forgery_passes(language: str) -> None:
    assert judge(language, RIGHT[language]).kind == Kind.PASSED
    assert judge(language, WRONG[language]).kind == Kind.WRONG
    verdicts = {what: judge(language, code) for what, code in forgeries(language).items()}
    assert len(verdicts) >= 25
    assert {what: verdict for what, verdict in verdicts.items() if verdict.kind in HARMLESS} == {}


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="the test above runs as an ordinary user")
def test_no_forgery_passes_when_an_ordinary_user_judges(language: str) -> None:
    codes = [RIGHT[language], WRONG[language], *forgeries(language).values()]
    first, second, *others = kinds_as_user(language, codes)
    assert (first, second) == (Kind.PASSED, Kind.WRONG)
    assert [each for each in zip(forgeries(language), others, strict=True) if each[1] in HARMLESS] == []
