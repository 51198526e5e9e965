import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.languages.rust_source import assemble, tampering
from tests.evaluation.languages.compiled_rows import DECLARATIONS, RIGHT, TESTS, row


def test_solution_and_test_are_files_of_their_own() -> None:
    sources = assemble(row("rust"), "fn main(){}\n" + DECLARATIONS["rust"] + RIGHT["rust"])
    assert list(sources) == ["main.rs", "solution.rs", "test.rs"]
    assert sources["solution.rs"] == DECLARATIONS["rust"] + RIGHT["rust"] + "\n"
    test = sources["test.rs"]
    assert "cfg(test)" not in test
    assert "#[test]" not in test
    assert "::@name@::assert_eq!(greet" in test
    assert '::@name@::vec!["hello b"' in test
    assert "test_greet(); ::@name@::passed" in test
    assert "const _: fn(name: &str) -> String = super::super::greet;" in test


def test_macros_in_strings_stay() -> None:
    test = TESTS["rust"].replace('"hello a"', '"Hello vec! assert!(x)"')
    assert '"Hello vec! assert!(x)"' in assemble(row("rust", test=test), "")["test.rs"]


@pytest.mark.parametrize(
    ("signature", "pin"),
    [
        ("gcd(mut a:i32,mut b:i32) -> i32", "const _: fn(a:i32,b:i32) -> i32 = super::super::gcd;"),
        (
            "all(values: Vec<Box<dyn Any>>) -> Vec<i32>",
            "use ::std::any::Any; use ::std::boxed::Box; use ::std::vec::Vec;",
        ),
        ("compare<'a>(a:&'a dyn Any) -> RtnType<i32>", ""),
        ("own(a: Own) -> i32", ""),
    ],
)
def test_the_entry_point_is_held_to_standard_types(signature: str, pin: str) -> None:
    test = assemble(row("rust", signature=signature), "")["test.rs"]
    assert pin in test
    assert ("const _" in test) == bool(pin)


def test_a_row_without_test_is_refused() -> None:
    with pytest.raises(OctoError, match="no module of tests"):
        assemble(row("rust", test="fn other() {}"), "")


@pytest.mark.parametrize(
    "solution",
    [
        "x as f64 as i32 }",
        "#[derive(Debug, PartialEq)]\npub enum RtnType<S> { Empty(), String(S), Float }",
        'let x = "include_str!()"; // no_mangle',
        "struct StringBuilder; impl PartialEq for StringBuilder { fn eq(&self, _: &Self) -> bool { true } }",
        "use std::collections::BTreeMap as Map; type Item = String;",
        "mod inner { pub fn f() {} }",
    ],
)
def test_what_solutions_may_do(solution: str) -> None:
    assert tampering(solution) is None


@pytest.mark.parametrize("solution", ["include_bytes !(1)", "#[unsafe(no_mangle)] fn f() {}", "union Vec {}", "mod x;"])
def test_tricks_that_are_refused_unseen(solution: str) -> None:
    assert tampering(solution)
