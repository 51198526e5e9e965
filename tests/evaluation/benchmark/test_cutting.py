"""Tests of where answers end."""

import random

import pytest

from megatron_octo.evaluation.benchmark.cutting import cut, description, finished
from megatron_octo.evaluation.benchmark.tasks import Task
from megatron_octo.evaluation.records import LANGUAGES
from tests.evaluation.benchmark.examples import BODIES, HEADS, needs_rows, published, row

TRAILING = {
    "python": "\nprint(doubled([1]))\n",
    "js": "console.log(doubled([1]));\nmodule.exports = doubled;\n",
    "java": "\npublic class Main {\n    public static void main(String[] a) { }\n}\n",
    "go": "func main() {\n    fmt.Println(1)\n}\n\nfunc TestMain(m *testing.M) {\n    os.Exit(0)\n}\n",
    "cpp": "int main(){\n    return 0;\n}\n",
    "rust": "\n#[cfg(test)]\nmod tests {\n    #[test]\n    fn t() {}\n}\n\nfn main() {}\n",
}
HELPED = {  # functions that use what follows them; OTHER is not used
    "python": (
        "    return aux(xs, LIMIT)\n\nLIMIT = 2\n",
        "def OTHER(): pass\n",
        "def aux(xs, k):\n    return [k * x for x in xs]\n",
    ),
    "js": ("  return aux(xs);\n}\n\n", "const OTHER = 1;\n", "function aux(xs) { return `}${xs}`; }\n"),
    "java": (
        "        return new Aux().of(xs);\n    }\n",
        "    static int OTHER() { return 1; }\n",
        "    static class Aux { List<Integer> of(List<Integer> xs) { return xs; } }\n}\n",
    ),
    "go": (
        '    p := pair{1, "}"}\n    return p.of(xs)\n}\n\ntype pair struct {\n    k int\n    s string\n}\n\n',
        "type OTHER struct{}\n\n",
        "func (p pair) of(xs []int) []int { return xs }\n",
    ),
    "cpp": ("    Aux a; return a.of(xs);\n}\n", "int OTHER = 1;\n", "struct Aux { vector<int> of(vector<int>); };\n"),
    "rust": (
        "    Aux { k: 2 }.of(xs)\n}\n\n#[derive(Debug)]\nstruct Aux { k: i32 }\n\n",
        "const OTHER: i32 = 1;\n",
        "impl Aux { fn of(&self, xs: Vec<i32>) -> Vec<i32> { xs } }\n",
    ),
}  # fmt: skip


def _task(language: str) -> Task:
    return Task("fixtests", language)


def _head(language: str) -> str:
    return _task(language).base(row(language)).rstrip()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_whole_function_stays_as_it_is(language: str) -> None:
    made = cut(_task(language), row(language), "\n" + BODIES[language])
    assert (made.what, made.head) == ("none", _head(language))
    assert made.solution == _head(language) + "\n" + BODIES[language].rstrip()


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("more", ["", "\nThis function doubles `xs` {and} no more.\n", "\n```\nIt works!"])
def test_what_follows_is_left_out(language: str, more: str) -> None:
    made = cut(_task(language), row(language), "\n" + BODIES[language] + TRAILING[language] + more)
    assert made.what == "syntax"
    assert made.code.rstrip() == "\n" + BODIES[language].rstrip()


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_the_function_needs_stays(language: str) -> None:
    before, other, after = HELPED[language]
    made = cut(_task(language), row(language), "\n" + before + after)
    assert made.what == "none"
    made = cut(_task(language), row(language), "\n" + before + other + after + TRAILING[language])
    assert made.what == "syntax"
    assert "OTHER" not in made.code
    assert made.code.split() == (before + after).split()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_function_written_twice_stays_once(language: str) -> None:
    code = "\n" + BODIES[language]
    made = cut(_task(language), row(language), code + "\n" + HEADS[language] + BODIES[language])
    assert made.code.split() == code.split()


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("prose", ["", "Sure! Here it is:\n\n"])
def test_the_function_anew_in_a_block(language: str, prose: str) -> None:
    again = HEADS[language] + BODIES[language]
    made = cut(_task(language), row(language), f"\n{prose}```x\n{again}{TRAILING[language]}```\nIt works.")
    assert made.what == "fence+whole"
    function = again.split("\n\n")[-2 if language in ("js", "go") else -1] if language != "cpp" else BODIES["cpp"]
    assert function.strip().split()[-5:] == made.code.split()[-5:]
    assert made.solution.count("doubled") == 1
    assert made.solution.count("```") == 0


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_rest_of_the_function_in_a_block(language: str) -> None:
    made = cut(_task(language), row(language), f"\n```\n{BODIES[language]}\n```\n")
    assert made.what == "fence"
    assert made.solution == _head(language) + "\n" + BODIES[language].rstrip()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_function_anew_without_a_block(language: str) -> None:
    again = HEADS[language] + BODIES[language]
    made = cut(_task(language), row(language), f"\n{again}{TRAILING[language]}")
    assert made.what == "whole"
    assert made.solution.count("doubled") == 1


@pytest.mark.parametrize(
    ("language", "body"),
    [
        ("java", "        List<Integer> doubled = xs;\n        return doubled;\n    }\n}"),
        ("js", "  let doubled = [];\n  return doubled;\n}"),
        ("python", "    doubled = xs\n    return doubled"),
    ],
)
def test_a_variable_with_the_function_s_name_is_not_the_function(language: str, body: str) -> None:
    made = cut(_task(language), row(language), f"\n```\n{body}\n```\n")
    assert (made.what, made.code) == ("fence", "\n" + body)


def test_java_class_is_closed() -> None:
    body = BODIES["java"].removesuffix("\n}")
    made = cut(_task("java"), row("java"), "\n" + body)
    assert (made.what, made.code) == ("closed", "\n" + BODIES["java"])
    made = cut(_task("java"), row("java"), f"\n{body}\n    public static void main(String[] a) {{\n        doubled(")
    assert (made.what, made.code) == ("syntax+closed", "\n" + BODIES["java"])


def test_python_blocks() -> None:
    inside = '\n    s = """\nx = 1\n"""\n# a comment in column 0\n    y = [\n1,\n]\n    z = 1 + \\\n2\n    return s'
    assert cut(_task("python"), row("python"), inside).what == "none"
    made = cut(_task("python"), row("python"), inside + "\n\n# more\nx = 1\n")
    assert (made.what, made.code) == ("syntax", inside)


def test_braces_in_texts_and_comments_do_not_count() -> None:
    code = "\n    if x == \"}\" || x == '{' { // }\n        return xs /* { */\n    }\n    return `}`\n}"
    made = cut(_task("go"), row("go"), code + "\nfunc init() { panic(1) }")
    assert made.code == code


def test_braces_in_templates_belong_together() -> None:
    code = "\n  return `{${xs.map((x) => { return `${x}}`; })}`;\n}"
    made = cut(_task("js"), row("js"), code + "\nconsole.log(1)")
    assert (made.what, made.code) == ("syntax", code)


def test_what_the_grammar_does_not_know_is_no_fault() -> None:
    function = (
        "vector<int> doubled(vector<int> xs){\n    if (typeid(int) == typeid(xs[0])) return xs;\n    return xs;\n}"
    )
    made = cut(_task("cpp"), row("cpp"), f"\n```\n{function}\n```")
    assert (made.what, made.code) == ("fence+whole", function)


def test_ends() -> None:
    task = _task("go")
    whole = "\n" + BODIES["go"].rstrip()
    assert cut(task, row("go"), whole + "<|endoftext|>}}").what == "stop word"
    assert cut(task, row("go"), whole + "<|end|>}}", stop=["<|end|>"]).code == whole
    assert cut(task, row("go"), "\n    return xs\n").what == "open"
    for text in ("", " \n\n", "<|endoftext|>x"):
        assert cut(task, row("go"), text).what.endswith("empty")
    assert cut(_task("python"), row("python"), "\nOnly prose.").what == "empty"
    assert cut(_task("python"), row("python"), "\n# only a comment").what == "empty"


def test_explainsynthesize_continues_the_documented_head() -> None:
    example = row("js", prompt="/* text */\n" + HEADS["js"].lstrip())
    assert cut(Task("explainsynthesize", "js"), example, "\n" + BODIES["js"]).head == example.prompt.rstrip()


@pytest.mark.parametrize("language", LANGUAGES)
def test_any_text_can_be_cut(language: str) -> None:
    stream = random.Random(language)
    pieces = [
        *"{}()[]\"'`\\\n\n\n #/*;\t\0",
        "```",
        "def doubled(",
        "\ud800",
        "é",
        "class ",
        "fn doubled",
        HEADS[language],
    ]
    for _ in range(150):
        text = "".join(stream.choice([*pieces, BODIES[language]]) for _ in range(stream.randrange(30)))
        made = cut(_task(language), row(language), text)
        made.solution.encode()
        assert made.solution.startswith(made.head)
        cut(_task(language), row(language), text, compat=True)
        finished(language, HEADS[language], text)


@needs_rows
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("scenario", ["fixtests", "fixdocs", "explainsynthesize"])
def test_published_solutions_stay_as_they_are(language: str, scenario: str) -> None:
    task = Task(scenario, language)
    for found in published(language):
        for solution in (found.canonical_solution, found.buggy_solution):
            made = cut(task, found, "\n" + solution)
            if (language, found.number) == ("cpp", 94):  # it ends with an include, which is not needed
                assert made.code == "\n" + solution.partition("#undef")[0].rstrip()
            else:
                assert (made.what, made.solution) == ("none", task.solution(found, "\n" + solution.rstrip()))


@needs_rows
@pytest.mark.parametrize("language", LANGUAGES)
def test_tests_behind_published_solutions_are_left_out(language: str) -> None:
    task = Task("fixdocs", language)
    for found in published(language):
        alone = cut(task, found, "\n" + found.canonical_solution)
        made = cut(task, found, "\n" + found.canonical_solution + "\n" + found.test)
        assert made.code.split() == alone.code.split()


def test_descriptions() -> None:
    example = row("go", docstring="x" * 60, canonical_solution="    return something(long, enough)\n}\n")
    text = "  It calls struct. return something(long, enough) And more.  "
    assert description(example, text) == "It calls struct.  And more."
    assert description(example, text, compat=True) == "It calls"
    assert description(example, "abc<|end|>d", stop=["<|end|>"]) == "abc"
    assert description(example, "y" * 100) == "y" * 60
