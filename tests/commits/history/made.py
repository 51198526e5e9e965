"""Real git repositories, made by git itself."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "Ada Löwe",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "bot[bot]",
    "GIT_COMMITTER_EMAIL": "bot@example.org",
    "GIT_AUTHOR_DATE": "2020-01-02T03:04:05+01:00",
    "GIT_COMMITTER_DATE": "2021-01-02T03:04:05-07:30",
}

# Names that a shell, a line, or a decoder would take for something else.
HOSTILE = (
    b"a b/c d.py",
    b"quote'\"`.py",
    b"$(touch EXECUTED).py",
    b"; touch EXECUTED; #.sh",
    b"new\nline\ttab.js",
    b"-rf.c",
    b"--output=EXECUTED",
    b":(glob)*.rb",
    b"back\\slash\\n.go",
    b"caf\xe9.py",
    "日本.rs".encode(),
    b"*.java",
)


class Repository:
    """A repository with a work tree."""

    def __init__(self, path: Path, *, sha256: bool = False):
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "-q", "-b", "main", f"--object-format={'sha256' if sha256 else 'sha1'}")

    def git(self, *words: str | bytes, data: bytes | None = None, env: Mapping[str, str] | None = None) -> bytes:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        done = subprocess.run(
            ["git", *words],
            cwd=self.path,
            env={**environment, **ENVIRONMENT, **(env or {})},
            input=data,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
        return done.stdout

    def write(self, files: Mapping[str | bytes, bytes | None]) -> None:
        for name, content in files.items():
            path = self.path / os.fsdecode(name)
            if content is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def commit(
        self, files: Mapping[str | bytes, bytes | None] | None = None, message: str | bytes = "Change", **env: str
    ) -> str:
        self.write(files or {})
        self.git("add", "-A")
        text = message.encode() if isinstance(message, str) else message
        self.git("commit", "-q", "--allow-empty", "--cleanup=verbatim", "-F", "-", data=text, env=env)
        return self.head()

    def raw_message(self, files: Mapping[str | bytes, bytes | None], message: bytes) -> str:
        """Commit with bytes that git itself would convert."""
        self.commit(files, "text")
        head, _, _ = self.git("cat-file", "commit", "HEAD").partition(b"\n\n")
        made = self.git("hash-object", "-t", "commit", "-w", "--stdin", data=head + b"\n\n" + message)
        self.git("update-ref", "HEAD", made.decode().strip())
        return self.head()

    def head(self) -> str:
        return self.git("rev-parse", "HEAD").decode().strip()

    def blob(self, name: str, revision: str = "HEAD") -> str:
        return self.git("rev-parse", f"{revision}:{name}").decode().strip()

    def loose(self, blob: str) -> Path:
        return self.path / ".git" / "objects" / blob[:2] / blob[2:]

    def bare(self, path: Path) -> Path:
        self.git("clone", "-q", "--bare", os.fspath(self.path), os.fspath(path))
        return path


def typical(path: Path, *, sha256: bool = False) -> tuple[Repository, dict[str, str]]:
    """Make a repository with every kind of commit; returns it, and ids by kind."""
    repository = Repository(path, sha256=sha256)
    commit, ids = repository.commit, {}
    names: dict[str | bytes, bytes | None] = dict.fromkeys(HOSTILE, b"one\n")
    ids["root"] = commit({"a.py": b"x = 1\n", "b.c": b"int b;\n", "LICENSE": b"", **names}, "First\n")
    ids["edit"] = commit({"a.py": "x = 'é'\r\n".encode()}, "Edit a\n\nwith a body\n")
    ids["two"] = commit({"a.py": b"x = 3\n", "b.c": b"int c;\n"}, "Edit two")
    ids["create"] = commit({"c.rs": b"fn main() {}\n"}, "Create c")
    ids["edit_and_create"] = commit({"a.py": b"x = 4\n", "d.go": b"package d\n"}, "Edit a, create d")
    ids["empty"] = commit({"b.c": b""}, "Empty b")
    ids["fill"] = commit({"b.c": b"int d;\n"}, "Fill b")
    ids["delete"] = commit({"d.go": None}, "Delete d")
    repository.git("mv", "c.rs", "e.rs")
    ids["rename"] = commit(message="Rename c")
    (repository.path / "link.py").symlink_to("a.py")
    ids["link"] = commit(message="A link")
    (repository.path / "link.py").unlink()
    (repository.path / "link.py").symlink_to("b.c")
    ids["link_edit"] = commit(message="Edit the link")
    (repository.path / "a.py").chmod(0o755)
    ids["mode"] = commit(message="Make a executable")
    ids["nothing"] = commit(message="Nothing")
    ids["bytes"] = commit({"a.py": b"\xff\xfe latin \xe9\n"}, "Latin")
    ids["nul"] = commit({"a.py": b"a\0b"}, "NUL")
    ids["back"] = commit({"a.py": b"x = 5\n"}, "Text again")
    ids["message"] = repository.raw_message({"a.py": b"x = 6\n"}, b"caf\xe9 \xff")
    ids["quoted"] = commit({"a.py": b"x = 7\n"}, "Quote $(touch EXECUTED) `id`\n:100644 100644 a b M\n\n")
    repository.git("checkout", "-q", "-b", "side", "HEAD~1")
    ids["side"] = commit({"b.c": b"int side;\n"}, "On the side")
    repository.git("checkout", "-q", "main")
    repository.git("merge", "-q", "--no-ff", "-m", "Merge side", "side")
    ids["merge"] = repository.head()
    for name in HOSTILE:
        ids[repr(name)] = commit({name: b"two\n" + name}, "Edit a hostile name")
    return repository, ids


def git_show(repository: Path, revision: str) -> bytes:
    """Return what ``git show`` prints for ``REVISION:PATH`` or an id, read apart from the code under test."""
    command = ["git", f"--git-dir={repository}", "cat-file", "blob", revision]
    return subprocess.run(command, capture_output=True, check=True).stdout
