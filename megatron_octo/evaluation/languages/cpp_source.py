"""C++ source: the test made proof against what a solution may define, and tricks that are refused unseen."""

import re
from typing import TYPE_CHECKING

from megatron_octo.evaluation.languages.compiled import NAME, NONCE
from megatron_octo.evaluation.languages.masking import masked

if TYPE_CHECKING:
    from megatron_octo.evaluation.benchmark.rows import Row

VERSION = 1  # of the rules in this file; part of the cache's key
_MAIN = '#include "solution.cpp"\n#include "test.cpp"\n'
_WORD = re.compile(r"[A-Za-z_]\w*")
_KEYWORDS = _WORD.findall("""
    alignas alignof asm auto bool break case catch char class const const_cast constexpr continue decltype default
    delete do double dynamic_cast else enum explicit export extern false float for friend goto if inline int long
    mutable namespace new noexcept nullptr operator private protected public register reinterpret_cast return short
    signed sizeof static static_assert static_cast struct switch template this throw true try typedef typeid typename
    union unsigned using virtual void volatile wchar_t while
    __asm__ __volatile__ __attribute__ __LINE__ assert main
""")
# Macros of the standard library that tests use by name.
_STANDARD = frozenset(("NULL", "NDEBUG", "EOF", "INT_MAX", "INT_MIN", "M_PI", "include", "undef", "define"))
# Neither can be a macro, or should stay one.
_KEPT = frozenset(
    _WORD.findall("and and_eq bitand bitor compl defined not not_eq or or_eq xor xor_eq __x86_64__ __aarch64__")
)
_DIRECTIVES = re.compile(r"^[ \t]*#[ \t]*(?:undef[ \t]+NDEBUG|include[ \t]*<assert\.h>)[ \t]*$", re.MULTILINE)
_MAIN_OF_TEST = re.compile(r"\bint\s+main\s*\(\s*(?:void)?\s*\)")

# Everything is written without the library, whose functions a solution could replace.
_CHECKS = """
static long raw(long number, long a, const void *b, long c) {
#if defined(__x86_64__)
    long result;
    __asm__ __volatile__("syscall" : "=a"(result) : "0"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number == 1 ? 64 : 94;
    register long x0 __asm__("x0") = a;
    register const void *x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    __asm__ __volatile__("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
#else
#error "no system calls for this processor"
#endif
}
static unsigned long length(const char *text) {
    unsigned long size = 0;
    while (text[size]) ++size;
    return size;
}
static void send(int to, const char *text) {
    raw(1, to, text, length(text));
}
static void fail(const char *words) {
    send(2, "assertion failed: ");
    send(2, words);
    send(2, "\\n");
    send(7, "wrong");
    for (;;) raw(231, 1, nullptr, 0);
}
static bool same(const char *a, unsigned long m, const char *b, unsigned long n) {
    if (m != n) return false;
    while (n--) if (*a++ != *b++) return false;
    return true;
}
static bool operator==(const std::string &a, const std::string &b) { return same(&a[0], a.size(), &b[0], b.size()); }
static bool operator==(const std::string &a, const char *b) { return same(&a[0], a.size(), b, length(b)); }
static bool operator==(const char *a, const std::string &b) { return b == a; }
static bool operator!=(const std::string &a, const std::string &b) { return !(a == b); }
static bool operator!=(const std::string &a, const char *b) { return !(a == b); }
static bool operator!=(const char *a, const std::string &b) { return !(b == a); }
"""
_OPERATORS = ("==", "!=", "<", ">", "<=", ">=", "+", "-", "*", "/", "%", "&&", "||", "<<", ">>", "&", "|", "^")

_FORBIDDEN = (
    (re.compile(r"\b(?:asm|__asm|__asm__)\b"), "assembler"),
    (re.compile(r"\bredefine_extname\b"), "a renamed function of the C library"),
    (re.compile(r"\b(?:alias|weakref|ifunc)\b\s*\("), "an alias for another function"),
    (re.compile(r"\b__assert_fail\b"), "its own __assert_fail"),
    (re.compile(r"#\s*define\s+assert\b"), "its own assert"),
    (re.compile(r"\b__libc_start_main\b|\b_start\s*\("), "its own start of the program"),
)
_WORDS = "|".join(word for word in _KEYWORDS if word not in ("assert", "main"))
_KEYWORD_MACRO = re.compile(rf"(?:#|%:)\s*define\s+({_WORDS})\b")
_OWN_INCLUDE = re.compile(r'^\s*(?:#|%:)\s*include(?:_next)?\s*["<](?:/|\.\.|test\.cpp|main\.cpp|solution\.cpp)', re.M)
_STD_OPERATOR = re.compile(r"\bnamespace\s+std\b[^;{]*\{.*\boperator\b", re.DOTALL)


def assemble(row: "Row", solution: str) -> dict[str, str]:
    """Return the files of a program: ``solution.cpp``, ``test.cpp`` and ``main.cpp``, which includes both.

    The test stands in a namespace of its own, whose operators and entry point hide those that a solution declares
    beside the asked one; macros that could change the test's text are undefined before it.
    """
    test = _DIRECTIVES.sub("", row.test)
    test = _MAIN_OF_TEST.sub("void run()", test)
    words = set(_WORD.findall(masked("cpp", test))) - _STANDARD
    lines = ["#pragma GCC reset_options"]
    lines += [f"#undef {word}" for word in sorted({*words, *_KEYWORDS, *_WORD.findall(_CHECKS)} - _KEPT)]
    lines += [f"namespace {NAME} {{", "struct Hiding {};"]
    lines += [f"void operator{operator}(Hiding, Hiding);" for operator in _OPERATORS]
    lines += [_CHECKS, _pinned(row.signature)]
    lines += ["#define assert(...) (static_cast<bool>(__VA_ARGS__) ? (void)0 : fail(#__VA_ARGS__))", test, "}"]
    lines += ["int main() {", f"    {NAME}::run();", f'    {NAME}::send(7, "{NONCE}");', "}", ""]
    return {"main.cpp": _MAIN, "solution.cpp": solution + "\n", "test.cpp": "\n".join(lines)}


def _pinned(signature: str) -> str:
    """Return a declaration that binds the entry point's name to the asked types; empty if it cannot be told."""
    match = re.fullmatch(r"([\w:<>,\s*&]+?)\b(\w+)\s*(\([^(){}=]*\))", signature.strip())
    if match is None:
        return ""
    result, name, parameters = match.groups()
    return f"static {result.strip()} (*const {name}){parameters} = ::{name};"


def tampering(solution: str) -> str | None:
    """Return the trick that a solution uses against its test; None if none is seen."""
    text = solution.replace("\\\n", "")
    code = masked("cpp", text)
    for pattern, words in _FORBIDDEN:
        if pattern.search(code):
            return words
    if match := _KEYWORD_MACRO.search(code):
        return f"the keyword {match.group(1)} is defined anew"
    if _OWN_INCLUDE.search(text):
        return "it includes files by path"
    if _STD_OPERATOR.search(code):
        return "its own operators in namespace std"
    return None
