from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_octo.common.errors import OctoError
from megatron_octo.data.planning.paths import Group, Source, read_group, read_groups
from tests.places import PROJECT

TRAIN = Group("train", (Source(Fraction(1), Fraction(0), Fraction("0.95"), "p"),))
VALID = Group("valid", (Source(Fraction(1), Fraction("0.95"), Fraction(1), "p"),))


@pytest.mark.parametrize(
    "text",
    [
        "train: 1.0 0:0.95 p\nvalid: 1.0 0.95:1 p\n",
        "# both\n\ntrain: 1.0 0:0.95 p  # most of it\n  valid: 1.0 0.95:1 p",
        "train: 1.0 0:0.95 p; valid: 1.0 0.95:1 p",
        '"train: 1.0 0:0.950 p" "valid: 1.0 0.950:1 p"\n',
    ],
)
def test_all_forms(tmp_path: Path, text: str) -> None:
    (tmp_path / "paths.txt").write_text(text)
    assert read_groups(tmp_path / "paths.txt") == (TRAIN, VALID)
    assert read_groups(text) == (TRAIN, VALID)


def test_several_data_sets() -> None:
    group = read_group("train: 1.0 0:0.95 a/b, 0.5 0:0.9 /c/with space")
    assert [source.prefix for source in group.sources] == ["a/b", "/c/with space"]
    assert group.sources[1].weight == Fraction(1, 2)
    with pytest.raises(OctoError, match="2 groups"):
        read_group("a: 1 0:1 p; b: 1 0:1 p")


@given(st.integers(0, 10**7), st.integers(1, 999))
def test_ranges_that_touch_share_nothing(count: int, thousandths: int) -> None:
    middle = thousandths / 1000
    first, second = (read_group(f"x: 1 {bounds} p").sources[0] for bounds in (f"0:{middle}", f"{middle}:1"))
    assert first.documents(count)[0] == 0
    assert first.documents(count)[1] == second.documents(count)[0]
    assert second.documents(count)[1] == count


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("train 1.0 0:1 p", "no name"),
        ("train:", "is empty"),
        ("train: 1.0 p", "cannot read '1.0 p'"),
        ("train: 1.0 0-1 p", "cannot read"),
        ("train: one 0:1 p", "not a number"),
        ("train: nan 0:1 p", "not a number"),
        ("train: 0 0:1 p", "has to be above 0"),
        ("train: 1 0.5:0.5 p", "START < END"),
        ("train: 1 0:1.5 p", "START < END"),
        ("train: 1 -0.1:1 p", "START < END"),
        ('"train: 1 0:1 p', "closing quote"),
        ("ok: 1 0:1 p", "given twice"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "paths.txt"
    path.write_text(f"# first\nok: 1 0:1 p\n{line}\n")
    with pytest.raises(OctoError) as caught:
        read_groups(path)
    assert says in caught.value.what
    assert caught.value.where == f"{path}:3"


def test_no_file_and_empty_file(tmp_path: Path) -> None:
    with pytest.raises(OctoError, match="no such file of data paths"):
        read_groups(str(tmp_path / "missing.txt"))
    (tmp_path / "paths.txt").write_text("# nothing\n")
    with pytest.raises(OctoError, match="no data paths"):
        read_groups(tmp_path / "paths.txt")


def test_the_examples_of_the_repository_are_disjoint() -> None:
    folder = PROJECT / "data_paths"
    train, valid = (read_group(folder / f"{name}.txt").sources[0] for name in ("train", "valid"))
    assert train.prefix == valid.prefix
    assert train.documents(1991)[1] <= valid.documents(1991)[0]
