import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.languages.go_source import assemble, tampering, used, without_imports
from tests.evaluation.languages.compiled_rows import DECLARATIONS, RIGHT, row


def imports(text: str) -> list[str]:
    """Return the lines of a file's first import block."""
    return [line.strip() for line in text.partition("import (\n")[2].partition(")")[0].splitlines()]


def test_unused_imports_go_and_used_ones_come() -> None:
    code = (
        'import (\n    "math"\n    "strings"\n)\n'
        + DECLARATIONS["go"]
        + "    return fmt.Sprint(rand.Intn(3)) // time.Now\n}\n"
    )
    assert imports(assemble(row("go"), code)["solution.go"]) == ['"fmt"', '"math/rand"']


def test_packages_in_strings_and_fields_are_not_used() -> None:
    known = {"math": "math", "sort": "sort", "time": "time", "fmt": "fmt"}
    text = 'x := "math.Abs" + `sort.Ints` + y.time.Now() // fmt.Println\n'
    assert used(text, known) == {}


def test_other_names_of_packages_are_kept() -> None:
    code = 'import m "math"\nimport str "strings"\nimport _ "os"\nimport . "sort"\nvar x = m.Abs(1)\n'
    text, asked = without_imports(code)
    assert text.strip() == "var x = m.Abs(1)"
    assert asked == {"m": "math", "str": "strings", ".": "sort"}
    assert imports(assemble(row("go"), code)["solution.go"]) == ['. "sort"', 'm "math"']


def test_packages_beyond_the_offered_ones_need_an_import() -> None:
    with_import = assemble(row("go"), 'import "container/heap"\nvar x = heap.Init\n')["solution.go"]
    without = assemble(row("go"), "var x = heap.Init\n")["solution.go"]
    assert imports(with_import) == ['"container/heap"']
    assert "import" not in without


@pytest.mark.parametrize("path", ["unsafe", "C", "net/http", "os/exec", "assert", "testing", "plugin"])
def test_some_packages_are_not_to_be_had(path: str) -> None:
    name = path.rpartition("/")[2]
    assert path not in assemble(row("go"), f'import "{path}"\nvar x = {name}.X\n')["solution.go"].partition("var")[0]


def test_helpers_of_the_prompt_are_added_where_they_lack() -> None:
    helper = "// Adds.\nfunc Add(a, b float64) float64 {\n    return math.Floor(a + b)\n}\n"
    given = row("go", prompt=f'import "math"\n\n{helper}{DECLARATIONS["go"]}')
    alone = assemble(given, DECLARATIONS["go"] + RIGHT["go"])["solution.go"]
    assert alone.count("func Add(") == 1
    assert imports(alone) == ['"math"']
    assert alone.count("func Greet(") == 1
    whole = assemble(given, given.prompt + RIGHT["go"])["solution.go"]
    assert whole.count("func Add(") == 1


def test_the_test_is_a_program_that_imports_the_solution() -> None:
    main = assemble(row("go"), DECLARATIONS["go"] + RIGHT["go"])["main.go"]
    assert main.startswith("package main\n")
    assert imports(main) == ['"assert"', '"testing"', '. "solution"']
    assert "\tTestGreet(&testing.T{})\n" in main


def test_a_row_without_test_is_refused() -> None:
    with pytest.raises(OctoError, match="no function Test"):
        assemble(row("go", test="func other() {}\n"), RIGHT["go"])


def test_tricks_that_are_refused_unseen() -> None:
    assert tampering({"solution.go": "//go:linkname a b\n"})
    assert tampering({"solution.go": "func TestMain(m int) {}\n"})
    assert tampering({"solution.go": "// func TestMain()\nfunc main() {}\n"}) is None
