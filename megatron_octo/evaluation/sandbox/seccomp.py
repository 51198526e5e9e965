"""The system calls that a sandboxed process is refused, as a filter for the kernel (classic BPF)."""

import errno
import platform
import struct

# Calls that reach other processes, the kernel's configuration, namespaces, or large and rarely needed parts of the
# kernel. Numbers: include/uapi/asm-generic/unistd.h (aarch64) and arch/x86/entry/syscalls/syscall_64.tbl.
_DENIED = {
    # name: (x86_64, aarch64)
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "personality": (135, 92),
    "acct": (163, 89),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "vhangup": (153, 58),
    "memfd_secret": (447, 447),
}
_X86_ONLY = (172, 173, 154)  # iopl, ioperm, modify_ldt
_CLONE, _CLONE3, _SOCKET, _IOCTL = (56, 220), (435, 435), (41, 198), (16, 29)
_NEW_NAMESPACES = 0x7E020080  # CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_AF_UNIX = 1
_ARCHES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_NUMBER, _ARCH = 0, 4


def _refuse(code: int) -> int:
    return 0x00050000 | code


def _argument(index: int) -> int:
    return 16 + 8 * index  # its low half; both machines are little endian


def build_filter(machine: str | None = None) -> bytes:
    """Return the filter for a machine, by default this one, as ``struct sock_filter[]``.

    Raises:
        KeyError: neither x86_64 nor aarch64.
    """
    arch, column = _ARCHES[machine or platform.machine()]
    lines: list[tuple[int, int, int, int]] = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, arch), (_RETURN, 0, 0, _KILL)]

    def answer(test: tuple[int, int], result: int) -> None:
        """Return ``result`` if a test of the loaded value holds."""
        lines.extend([(test[0], 0, 1, test[1]), (_RETURN, 0, 0, result)])

    def about_argument(call: tuple[int, int], index: int, tests: list[tuple[int, int]], result: int) -> None:
        """Return ``result`` if a test of an argument holds, and allow the call otherwise."""
        body = 2 + 2 * len(tests)
        lines.append((_EQUAL, 0, body, call[column]))
        lines.append((_LOAD, 0, 0, _argument(index)))
        for test in tests:
            answer(test, result)
        lines.append((_RETURN, 0, 0, _ALLOW))

    lines.append((_LOAD, 0, 0, _NUMBER))
    if column == 0:
        answer((_AT_LEAST, 0x40000000), _refuse(errno.EPERM))  # the x32 numbers of the same calls
        for number in _X86_ONLY:
            answer((_EQUAL, number), _refuse(errno.EPERM))
    for numbers in _DENIED.values():
        answer((_EQUAL, numbers[column]), _refuse(errno.EPERM))
    answer((_EQUAL, _CLONE3[column]), _refuse(errno.ENOSYS))  # its flags lie in memory; libraries fall back to clone
    about_argument(_CLONE, 0, [(_ANY_BIT, _NEW_NAMESPACES)], _refuse(errno.EPERM))
    about_argument(_IOCTL, 1, [(_EQUAL, request) for request in _TERMINAL_INPUT], _refuse(errno.EPERM))
    # socket(): AF_UNIX alone
    lines += [(_EQUAL, 0, 3, _SOCKET[column]), (_LOAD, 0, 0, _argument(0)), (_EQUAL, 1, 0, _AF_UNIX)]
    lines += [(_RETURN, 0, 0, _refuse(errno.EACCES)), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("<HBBI", *line) for line in lines)
