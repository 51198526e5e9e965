"""The filter as the kernel will run it, by an interpreter of the few instructions that it has."""

import struct

import pytest

from megatron_octo.evaluation.sandbox.seccomp import build_filter

ALLOW, KILL, EPERM, EACCES, ENOSYS = 0x7FFF0000, 0x80000000, 0x50001, 0x5000D, 0x50026
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def answer(code: bytes, arch: int, number: int, *arguments: int) -> int:
    data = struct.pack("<IIQ6Q", number, arch, 0, *(*arguments, *[0] * (6 - len(arguments))))
    lines = [struct.unpack_from("<HBBI", code, place) for place in range(0, len(code), 8)]
    place, loaded = 0, 0
    while True:
        kind, yes, no, value = lines[place]
        place += 1
        if kind == 0x06:
            return int(value)
        if kind == 0x20:
            loaded = struct.unpack_from("<I", data, value)[0]
        else:
            holds = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}[kind]
            place += yes if holds else no


@pytest.mark.parametrize("machine", ARCH)
def test_answers(machine: str) -> None:
    code, arch = build_filter(machine), ARCH[machine]
    numbers = {
        "x86_64": {"read": 0, "ptrace": 101, "clone": 56, "clone3": 435, "socket": 41, "ioctl": 16, "mount": 165},
        "aarch64": {"read": 63, "ptrace": 117, "clone": 220, "clone3": 435, "socket": 198, "ioctl": 29, "mount": 40},
    }[machine]
    assert answer(code, arch, numbers["read"]) == ALLOW
    assert answer(code, arch, numbers["ptrace"]) == answer(code, arch, numbers["mount"]) == EPERM
    assert answer(code, arch, numbers["clone3"]) == ENOSYS
    assert answer(code, arch, numbers["clone"], 17) == ALLOW
    assert answer(code, arch, numbers["clone"], 0x10000000 | 17) == EPERM
    assert answer(code, arch, numbers["socket"], 1) == ALLOW
    assert {answer(code, arch, numbers["socket"], family) for family in (2, 10, 16, 17, 40)} == {EACCES}
    assert answer(code, arch, numbers["ioctl"], 0, 0x5401) == ALLOW
    assert answer(code, arch, numbers["ioctl"], 0, 0x5412) == EPERM
    assert answer(code, 0x40000003, numbers["read"]) == KILL  # 32 bits: other numbers
    if machine == "x86_64":
        assert answer(code, arch, 0x40000000 | numbers["read"]) == EPERM


def test_other_machines_have_none() -> None:
    with pytest.raises(KeyError):
        build_filter("riscv64")
