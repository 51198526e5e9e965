"""Former import paths lead to the modules that took their place."""

import importlib
import importlib.util

import pytest

from megatron_octo import _moved


@pytest.mark.parametrize("former", _moved._MOVED)
def test_the_present_module_exists(former: str) -> None:
    assert importlib.util.find_spec(f"megatron_octo.{_moved._MOVED[former]}")


def test_both_names_are_one_module() -> None:
    present = importlib.import_module("megatron_octo.common.files")
    with pytest.warns(DeprecationWarning, match="is megatron_octo.common.files now"):
        assert importlib.import_module("megatron_octo.files") is present


def test_other_names_stay_unknown() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("megatron_octo.nothing_of_that_name")
