import os
import threading
from pathlib import Path

import pytest

from megatron_octo.evaluation.languages.compiled import (
    WRONG,
    build_once,
    build_patiently,
    compile_verdict,
    output_folder,
    run_verdict,
)
from megatron_octo.evaluation.records import Kind
from megatron_octo.evaluation.sandbox.limits import Limits, Outcome
from tests.evaluation.languages.compiled_rows import RIGHT, SECOND, judge, judge_of, row

NONCE = "0123456789abcdef"
ENDLESS = {"cpp": "    for (;;);\n}\n", "go": "    for {\n    }\n}\n", "rust": "    loop {}\n}\n"}
ASLEEP = {
    "cpp": '    system("sleep 60");\n    return "";\n}\n',
    "go": '    time.Sleep(time.Minute)\n    return ""\n}\n',
    "rust": "    std::thread::sleep(std::time::Duration::from_secs(60)); String::new()\n}\n",
}
GREEDY = {
    "cpp": "    vector<string> all; for (;;) all.push_back(string(1 << 24, 'x'));\n}\n",
    "go": "    all := [][]byte{}\n    for {\n        all = append(all, bytes.Repeat([]byte{1}, 1<<24))\n    }\n}\n",
    "rust": "    let mut all = Vec::new(); loop { all.push(vec![1u8; 1 << 24]); }\n}\n",
}
LOUD = {
    "cpp": '    for (;;) puts("nothing but words");\n}\n',
    "go": '    for {\n        fmt.Println("nothing but words")\n    }\n}\n',
    "rust": '    loop { println!("nothing but words"); }\n}\n',
}
BROKEN = {
    "cpp": "    abort();\n}\n",
    "go": '    panic("no")\n}\n',
    "rust": '    panic!("no")\n}\n',
}
ENDLESS_CALLS = {
    "cpp": "    return greet(name) + name;\n}\n",
    "go": "    return Greet(name) + name\n}\n",
    "rust": '    format!("{}{}", greet(name), name)\n}\n',
}
NONSENSE = {"cpp": "    return nothing;\n}\n", "go": "    return nothing\n}\n", "rust": "    nothing\n}\n"}
FOREIGN_FILE = {
    "cpp": '    return "";\n}\n#include "../../etc/passwd"\n',
    "go": '    return ""\n}\nimport _ "/etc/passwd"\nvar x = passwd.Root\n',
    "rust": '    include_str!("/etc/passwd").to_string()\n}\n',
}
CASES = [
    (ENDLESS, Kind.CPU_LIMIT, SECOND),
    (ASLEEP, Kind.WALL_LIMIT, Limits(cpu_s=1, wall_s=1.5)),
    (GREEDY, Kind.MEMORY, Limits(cpu_s=5, memory_bytes=256 << 20)),
    (LOUD, Kind.OUTPUT_LIMIT, SECOND),
    (BROKEN, Kind.EXCEPTION, SECOND),
    (NONSENSE, Kind.COMPILE_ERROR, SECOND),
]


def outcome(**fields: object) -> Outcome:
    """Return the end of a run that went well, but for ``fields``."""
    usual: dict[str, object] = {
        "exit_code": 0,
        "signal": None,
        "stdout": b"",
        "stderr": b"",
        "channel": NONCE.encode(),
        "cpu_s": 0.0,
        "wall_s": 0.0,
    }
    return Outcome(**{**usual, **fields})  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("language", ["cpp", "go", "rust"])
def test_each_end_has_its_kind(language: str) -> None:
    if not judge_of(language).toolchain().found:
        pytest.skip(f"no toolchain for {language}")
    found = [judge(language, codes[language], limits).kind for codes, _, limits in CASES]
    assert found == [kind for _, kind, _ in CASES]
    assert judge(language, ENDLESS_CALLS[language], Limits()).kind == Kind.EXCEPTION
    assert judge(language, FOREIGN_FILE[language]).kind in (Kind.COMPILE_ERROR, Kind.TAMPERED)
    right = judge(language, RIGHT[language])
    assert right.kind == Kind.PASSED
    assert right.level == 1
    assert right.compile_cpu_s > right.run_cpu_s > 0
    assert right.wall_s > 0


@pytest.mark.parametrize("language", ["cpp", "go", "rust"])
def test_equal_solutions_make_equal_programs(language: str) -> None:
    judging = judge_of(language)
    first, second = (judging.program(row(language), RIGHT[language]) for _ in range(2))
    assert first == second
    assert first.digest != judging.program(row(language), RIGHT[language] + " ").digest
    assert first.digest != judging.program(row(language, test=row(language).test + "\n\n"), RIGHT[language]).digest


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, Kind.PASSED),
        ({"exit_code": 1}, Kind.EXCEPTION),
        ({"exit_code": None, "signal": 6}, Kind.EXCEPTION),
        ({"channel": b""}, Kind.TAMPERED),
        ({"channel": NONCE.encode() * 2}, Kind.TAMPERED),
        ({"channel": WRONG + NONCE.encode()}, Kind.TAMPERED),
        ({"channel": b"fedcba9876543210"}, Kind.TAMPERED),
        ({"channel": WRONG, "exit_code": 1}, Kind.WRONG),
        ({"channel": WRONG}, Kind.WRONG),
        ({"channel": b"", "exit_code": 2, "stderr": b"fatal error: out of memory"}, Kind.MEMORY),
        ({"channel": b"", "exit_code": 2, "stderr": b"out of memory\nruntime.newstack()"}, Kind.EXCEPTION),
        ({"limit": "cpu"}, Kind.CPU_LIMIT),
        ({"limit": "wall"}, Kind.WALL_LIMIT),
        ({"limit": "memory"}, Kind.MEMORY),
        ({"limit": "output"}, Kind.OUTPUT_LIMIT),
        ({"trouble": "no namespaces"}, Kind.INFRASTRUCTURE),
    ],
)
def test_verdict_on_a_run(fields: dict[str, object], kind: Kind) -> None:
    assert run_verdict(outcome(**fields), NONCE).kind == kind


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"exit_code": 1, "stderr": b"error: no"}, Kind.COMPILE_ERROR),
        ({"exit_code": 1, "stderr": b"cc1plus: out of memory allocating 65536 bytes"}, Kind.MEMORY),
        (
            {"exit_code": 1, "stderr": b"g++: fatal error: Killed signal terminated program cc1plus"},
            Kind.INFRASTRUCTURE,
        ),
        ({"exit_code": 1, "stderr": b"CPU time limit exceeded signal terminated program cc1plus"}, Kind.CPU_LIMIT),
        ({"exit_code": 152}, Kind.CPU_LIMIT),
        ({"exit_code": None, "signal": 9}, Kind.INFRASTRUCTURE),
        ({"exit_code": None, "signal": 9, "limit": "memory"}, Kind.MEMORY),
        ({"exit_code": None, "signal": 9, "limit": "cpu"}, Kind.CPU_LIMIT),
        ({"exit_code": None, "signal": 11}, Kind.COMPILE_ERROR),
        ({"exit_code": 0}, Kind.INFRASTRUCTURE),
        ({"trouble": "no namespaces"}, Kind.INFRASTRUCTURE),
    ],
)
def test_verdict_on_a_compilation_without_program(fields: dict[str, object], kind: Kind, tmp_path: Path) -> None:
    verdict = compile_verdict(outcome(**fields), tmp_path / "program")
    assert verdict is not None
    assert verdict.kind == kind


def test_a_link_is_no_program(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.symlink_to("/bin/true")
    assert compile_verdict(outcome(), program) is not None
    program.unlink()
    program.write_bytes(b"x")
    assert compile_verdict(outcome(), program) is None


def test_details_are_printable_and_short() -> None:
    verdict = run_verdict(outcome(exit_code=1, channel=b"", stderr=b"\x1b[2J" + b"x" * 9000 + b"\xff"), NONCE)
    assert len(verdict.detail) <= 2000
    assert "\x1b" not in verdict.detail


def test_what_is_built_once_is_built_once(tmp_path: Path) -> None:
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "tool").write_text("x")
        (folder / "tool").chmod(0o700)

    found = []
    threads = [
        threading.Thread(target=lambda: found.append(build_once(tmp_path / "c", "x", "xxh3-128:0123", build)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert set(found) == {tmp_path / "c" / "x-0123"}
    assert (found[0] / "tool").stat().st_mode & 0o777 == 0o755


def test_nothing_is_left_of_a_failed_build(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise ValueError("no compiler")

    with pytest.raises(ValueError, match="no compiler"):
        build_once(tmp_path, "x", "1", build)
    assert [path.name for path in tmp_path.iterdir()] == [".x.lock"]


def test_the_output_folder_belongs_to_the_slot() -> None:
    with output_folder(3) as folder:
        found = folder.stat()
        assert found.st_mode & 0o777 == 0o700
        assert found.st_uid == (2_000_000_003 if os.getuid() == 0 else os.getuid())
    assert not folder.exists()


def test_a_compiler_without_threads_is_started_again_and_the_last_word_counts() -> None:
    words = b"error: failed to spawn helper thread: Resource temporarily unavailable"
    starved = Outcome(1, None, b"", words, b"", 0.1, 0.1)
    good, bad = Outcome(0, None, b"", b"", b"", 0.1, 0.1), Outcome(1, None, b"", b"error: expected `;`", b"", 0.1, 0.1)
    for outcomes, wanted, starts in (
        ([starved, good], good, 2),
        ([starved, bad], bad, 2),
        ([bad, good], bad, 1),
        ([starved, starved, starved, good], starved, 3),  # what a program may print, too
    ):
        left = iter(outcomes)
        assert build_patiently(lambda: next(left), pause=0.0) is wanted  # noqa: B023
        assert len(outcomes) - len(list(left)) == starts
