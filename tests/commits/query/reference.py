"""The query in plain Python over lists: what the statements are to give."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

LICENCES = {
    "mit", "artistic-2.0", "isc", "cc0-1.0", "epl-1.0", "mpl-2.0", "unlicense", "apache-2.0", "bsd-3-clause",
    "agpl-3.0", "lgpl-2.1", "bsd-2-clause",
}  # fmt: skip
LANGUAGES = {
    "Python", "Java", "JavaScript", "HTML", "Common Lisp", "Shell", "R", "SQL", "C", "C#", "C++", "TypeScript", "Go",
    "Rust", "Swift", "PHP", "Dart", "Kotlin", "Matlab", "MATLAB", "Ruby",
}  # fmt: skip
SILENT = {
    "update readme.md", "initial commit", "update", "mirroring from micro.blog.", "update data.json", "update data.js",
    "add files via upload", "update readme", "can't you see i'm updating the time?", "pi push", "dummy",
    "update index.html", "first commit", "create readme.md", "heartbeat update", "updated readme", "update log", "test",
    "no message", "readme", "wip", "updates", "commit", "update _config.yaml",
}  # fmt: skip
PLAIN = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def expected(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the rows by commit."""
    commits = [row for path in sorted(folder.glob("commits-*.parquet")) for row in pq.read_table(path).to_pylist()]
    spoken, terms = set(), defaultdict(set)
    for row in pq.read_table(folder / "languages.parquet").to_pylist():
        names = [each["name"] for each in row["language"]]
        if any(name in LANGUAGES or name.startswith("Perl") for name in names):
            spoken.add(row["repo_name"])
    for row in pq.read_table(folder / "licenses.parquet").to_pylist():
        if row["license"] in LICENCES:
            terms[row["repo_name"]].add(row["license"])
    found: dict[str, dict[str, Any]] = {}
    files = defaultdict(set)
    for row in commits:
        message = (row["message"] or "").strip(" \t\r\n")
        lower = message.translate(PLAIN)
        repos = {name for name in row["repo_name"] if name in spoken and name in terms}
        if repos and 5 < len(message) < 10_000 and lower not in SILENT and not lower.startswith("merge"):
            each = found.setdefault(row["commit"], {"message": message, "repos": set(), "license": set()})
            each["repos"] |= repos
            each["license"] |= {term for name in repos for term in terms[name]}
    for row in commits:
        if row["commit"] in found and not row["difference_truncated"]:
            for part in row["difference"] or ():
                links = {part["old_mode"], part["new_mode"]} & {0o120000, 0o160000}
                if part["old_path"] and part["old_path"] == part["new_path"] and not links:
                    files[row["commit"]].add((part["old_path"], part["old_sha1"], part["new_sha1"]))
    rows = {}
    for commit, each in found.items():
        if len(files[commit]) == 1:
            ((path, old, new),) = files[commit]
            rows[commit] = {
                "message": each["message"],
                "repos": ",".join(sorted(each["repos"])),
                "license": ",".join(sorted(each["license"])),
                "old_file": path,
                "new_file": path,
                "old_blob": old,
                "new_blob": new,
            }
    return rows
