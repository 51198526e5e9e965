"""Made files of pairs."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_lines(path: Path, values: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in values), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def pair(number: int, name: str = "", lang: str | None = None) -> Mapping[str, Any]:
    return {"inputs": f"{name} question {number}", "outputs": f"answer {number}", **({"lang": lang} if lang else {})}


def commit(number: int, **more: Any) -> dict[str, Any]:
    return {
        "commit": f"{number:040x}",
        "old_file": f"a/{number}.py",
        "new_file": f"a/{number}.py",
        "old_contents": f"x = {number}\n",
        "new_contents": f"x = {number + 1}\n",
        "subject": f"Raise {number}",
        "message": f"Raise {number}\n",
        "license": "mit",
        "repos": "a/b",
        **more,
    }
