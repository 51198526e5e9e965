import pytest

from megatron_octo.evaluation.languages.cpp_source import assemble, tampering
from tests.evaluation.languages.compiled_rows import RIGHT, row


def test_solution_and_test_are_files_of_their_own() -> None:
    sources = assemble(row("cpp"), RIGHT["cpp"])
    assert list(sources) == ["main.cpp", "solution.cpp", "test.cpp"]
    assert sources["solution.cpp"] == RIGHT["cpp"] + "\n"
    test = sources["test.cpp"]
    assert "#include" not in test
    assert "static string (*const greet)(string name) = ::greet;" in test
    assert "#undef greet\n" in test
    assert "#undef while\n" in test
    assert test.index("#undef assert\n") < test.index("#define assert(")
    assert 'assert (greet("a") == "hello a");' in test
    assert test.count("int main(") == 1


@pytest.mark.parametrize("signature", ["", "template <class T> T f(T x = {})", "auto f(int x) -> int"])
def test_a_signature_that_cannot_be_told_pins_nothing(signature: str) -> None:
    assert "(*const" not in assemble(row("cpp", signature=signature), "")["test.cpp"]


@pytest.mark.parametrize(
    "solution",
    [
        "return 1; }\nstruct A { bool operator==(const A &) const { return true; } };",
        'return "asm"; } // asm, #define if',
        "return x; }\n#define MAX 3\n#include <unordered_map>\nint main2() {}",
        "using namespace std;\nint f() { return 1; }\nstruct A { bool operator<(const A &b) const { return 0; } };",
    ],
)
def test_what_solutions_may_do(solution: str) -> None:
    assert tampering(solution) is None


@pytest.mark.parametrize(
    "solution",
    [
        "#define whi\\\nle if",
        "# define if(x) if (0)",
        "namespace std { inline namespace x { bool operator==(int, string); } }",
        '_Pragma("redefine_extname a b")'.replace('"', ""),
        '#include "/w/test.cpp"',
        '#include "../w/test.cpp"',
        'int x __attribute__((alias("y")));',
    ],
)
def test_tricks_that_are_refused_unseen(solution: str) -> None:
    assert tampering(solution)
