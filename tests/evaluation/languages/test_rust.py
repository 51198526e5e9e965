import os
import shutil
import subprocess
from pathlib import Path

import pytest

from megatron_octo.evaluation.languages import rust
from megatron_octo.evaluation.languages.rust import Rust, find_rustc
from megatron_octo.evaluation.records import Kind
from megatron_octo.evaluation.sandbox.box import Sandbox
from megatron_octo.evaluation.sandbox.levels import probe_level
from megatron_octo.evaluation.sandbox.limits import Limits
from megatron_octo.evaluation.sandbox.supervisor import cache_root
from tests.evaluation.languages.compiled_rows import DECLARATIONS, RIGHT, judge, judge_of, row

CRATES = """
    assert!(Regex::new(r"^\\p{L}+$").unwrap().is_match("é"));
    assert_eq!(format!("{:x}", md5::compute(b"a")), "0cc175b9c0f1b6a831c399e269772661");
    let mut rng = rand::thread_rng();
    for _ in 0..1000 {
        let low: i32 = rng.gen_range(-3, 4);
        assert!(-3 <= low && low < 4);
        let real: f64 = rng.gen_range(0.5, 1.0);
        assert!(0.5 <= real && real < 1.0);
        let unit: f32 = rng.gen();
        assert!(0.0 <= unit && unit < 1.0);
        assert!(rng.gen_range(b'a', b'z' + 1).is_ascii_lowercase());
        assert!((i64::MIN..i64::MAX).contains(&rng.gen_range(i64::MIN, i64::MAX)));
    }
    let heads = (0..1000).filter(|_| rng.gen_bool(0.25)).count();
    assert!(150 < heads && heads < 350, "{}", heads);
    let mut all: Vec<usize> = (0..100).collect();
    rng.shuffle(&mut all);
    assert_ne!(all, (0..100).collect::<Vec<_>>());
    assert!(rng.choose(&all).is_some() && rng.choose::<u8>(&[]).is_none());
    let first = std::thread::spawn(|| rand::random::<u64>()).join().unwrap();
    let second = std::thread::spawn(|| rand::thread_rng().gen::<u64>()).join().unwrap();
    assert_eq!(first, second);
    assert_ne!(rand::random::<u128>(), rand::random::<u128>());
    format!("hello {}", name)
}
"""


def compilers() -> list[str]:
    """Return Debian's compiler and the first on the path, where they are two."""
    candidates = [place for place in ("/usr/bin/rustc", shutil.which("rustc")) if place and Path(place).exists()]
    versions = {subprocess.run([each, "-vV"], capture_output=True, text=True).stdout: each for each in candidates}
    return sorted(versions.values())


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rust, "_DEBIAN", str(tmp_path / "rustc"))
    monkeypatch.setattr(rust, "_REGISTRY", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("RUSTC", raising=False)
    toolchain = Rust(tmp_path / "cache").toolchain()
    assert not toolchain.found
    wanted = ("librust-regex-syntax-dev", "librust-regex-dev", "librust-md5-dev", "rustc", "gcc")
    assert toolchain.missing == tuple(f"apt: {name}" for name in wanted)


def test_the_environment_names_the_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "rustc"
    fake.write_text("#!/bin/sh\nexit 0\n")
    fake.chmod(0o755)
    monkeypatch.setenv("RUSTC", str(fake))
    assert find_rustc() == str(fake)
    fake.write_text("#!/bin/sh\nexit 1\n")
    assert find_rustc() != str(fake)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", compilers())
def test_every_compiler_and_the_crates(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUSTC", compiler)
    judging = Rust(cache_root())
    if not judging.toolchain().found:
        pytest.skip("no toolchain for rust")
    with Sandbox(probe_level(), slot=9) as box:
        for code in (RIGHT["rust"], CRATES):
            verdict = judging.judge(judging.program(row("rust"), DECLARATIONS["rust"] + code), box, Limits())
            assert verdict.kind == Kind.PASSED, verdict.detail


@pytest.mark.slow
def test_numbers_overflow_as_in_tests_of_cargo() -> None:
    if not judge_of("rust").toolchain().found:
        pytest.skip("no toolchain for rust")
    verdict = judge("rust", '    let n = name.len() as u8 + 255;\n    format!("hello {}{}", name, n)\n}\n')
    assert (verdict.kind, "overflow" in verdict.detail) == (Kind.EXCEPTION, True)


@pytest.mark.skipif(os.getuid() != 0, reason="copies are made for root's sandboxes")
def test_a_folder_that_others_cannot_enter(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert not rust._reachable(tmp_path)
    assert rust._reachable(Path("/usr/bin"))
