"""Where the original harness ends an answer, with its faults: bare stop words, braces counted in texts.

Nothing here is meant to be right; ``cutting.py`` is.
"""

from collections.abc import Sequence

_STOP_WORDS = {
    "python": ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\nassert"),
    "go": ("\n//", "\nfunc main(", "struct", "\nfunc"),
}
_END = "<|endoftext|>"
_LINE_OF_CODE = 20  # shorter lines may stand in a description


def stop_words(language: str, extra: Sequence[str] = ()) -> list[str]:
    """Return the stop words of a language, then a prompt's own, then the end of a text."""
    return [*_STOP_WORDS.get(language, ()), *extra, _END]


def post_process(language: str, text: str, extra: Sequence[str] = ()) -> str:
    """Cut an answer that is code.

    Args:
        language: of the answer.
        text: what was generated after the prompt.
        extra: the prompt's own stop words.
    """
    code = text.rstrip()
    for word in stop_words(language, extra):
        code = code.partition(word)[0]
    if language == "python":
        return _first_block(code)
    end = _closing_brace(code, _open_braces(language))
    if end is not None:
        return code[:end]
    return _close_java(code) if language == "java" else _to_last_brace(code)


def finished(language: str, text: str, extra: Sequence[str] = ()) -> bool:
    """Return whether the original harness would end a generation."""
    if any(word in text for word in stop_words(language, extra)):
        return True
    if language == "python":
        return any(_begins_left(line) for line in text.split("\n"))
    return text.count("}") == text.count("{") + _open_braces(language)


def without_code(text: str, solution: str) -> str:
    """Remove from a description the lines of a solution that it quotes, if they are longer than twenty characters."""
    for line in solution.split("\n"):
        if len(line.strip()) > _LINE_OF_CODE:
            text = text.replace(line.strip(), "")
    return text


def _open_braces(language: str) -> int:
    return 2 if language == "java" else 1


def _begins_left(line: str) -> bool:
    return bool(line.strip()) and line[0] not in " \t"


def _first_block(code: str) -> str:
    lines = code.split("\n")
    for number, line in enumerate(lines):
        if _begins_left(line):
            return "\n".join(lines[:number])
    return code


def _closing_brace(code: str, depth: int) -> int | None:
    for place, char in enumerate(code):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return place + 1
    return None


def _to_last_brace(code: str) -> str:
    return code[: code.rfind("}") + 1] if "}" in code else code


def _close_java(code: str) -> str:
    main = code.find("public static void main")
    if main >= 0:
        code = code[:main] + "}"
    code = _to_last_brace(code)
    return code + "\n}" if code.count("{") - 1 == code.count("}") else code
