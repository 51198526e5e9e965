import pytest

from megatron_octo.evaluation.languages.masking import end_of_block, masked


@pytest.mark.parametrize(
    ("language", "text", "left"),
    [
        ("cpp", 'int a; // b\n"c" d', "int a;     \n    d"),
        ("cpp", "a /* b\n c */ d", "a     \n      d"),
        ("cpp", "x = 1'000; 'a' y", "x = 1'000;     y"),
        ("cpp", 'R"(a " // )" b', "             b"),
        ("cpp", 'R"x(a )" b)x" c', "              c"),
        ("cpp", '"\\"" a', "     a"),
        ("cpp", "// a \\\n b\nc", "//".replace("/", " ") + "    \n  \nc"),
        ("cpp", 'a R"(b', "a     "),
        ("go", "a := `b\n\\` + 'c' // d", "a :=   \n   +         "),
        ("go", "'\\'' a", "     a"),
        ("rust", "a /* b /* c */ d */ e", "a                   e"),
        ("rust", "fn f<'a>(x: &'a str) -> char { 'b' }", "fn f<'a>(x: &'a str) -> char {     }"),
        ("rust", "'\\'' a '\\u{1F600}' b", "     a             b"),
        ("rust", 'r#"a " b"# c br"d" e', "           c       e"),
        ("rust", '"a\nb" c', "  \n   c"),
        ("rust", "/* a /* b */ c", "              "),
    ],
)
def test_comments_and_literals_become_spaces(language: str, text: str, left: str) -> None:
    assert masked(language, text) == left


@pytest.mark.parametrize("language", ["cpp", "go", "rust"])
def test_masks_keep_length_and_lines(language: str) -> None:
    text = 'a "b\nc" /* d\ne */ \'f\' `g\nh` r#"i"# R"(j)" // k\nl "\\'
    found = masked(language, text)
    assert len(found) == len(text)
    assert [place for place, char in enumerate(text) if char == "\n"] == [
        place for place, char in enumerate(found) if char == "\n"
    ]


def test_the_end_of_a_block() -> None:
    assert end_of_block("f() { { } } g", 0) == 11
    assert end_of_block("f() { {", 0) is None
    assert end_of_block("} {}", 0) is None
