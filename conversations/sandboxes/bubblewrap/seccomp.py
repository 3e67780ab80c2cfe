"""The system calls that a sandbox may not use, as a classic BPF program for ``bwrap --seccomp FD``.

Everything is allowed that is not listed here. The filter removes the calls that administer a machine, that reach kernel
code which namespaces do not separate, or whose memory the sandbox's memory watcher cannot see. It needs Linux 4.8 or
newer, because older kernels run it before a tracer may change the call.
"""

import errno
import platform
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

Instruction: TypeAlias = tuple[int, int, int, int]
"""One ``struct sock_filter``: code, jump if true, jump if false, constant."""

# Codes of instructions (linux/bpf_common.h).
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_GREATER: Final = 0x25  # BPF_JMP | BPF_JGT | BPF_K
_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

# Verdicts (linux/seccomp.h).
ALLOW: Final = 0x7FFF0000
KILL: Final = 0x80000000
ERRNO: Final = 0x00050000

# Offsets in struct seccomp_data.
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_ARGUMENTS: Final = 16

_CLONE_NEW: Final = 0x7E020000
"""All ``CLONE_NEW*`` flags but ``CLONE_NEWTIME``: mount, cgroup, UTS, IPC, user, PID and network namespaces."""
_CLONE_NEWTIME: Final = (
    0x80  # In clone() this bit is part of the exit signal; unshare() takes it as a flag.
)
_UNTOUCHED: Final = 0xFFFFFFFF
"""The number that a tracer sets to skip a call. The kernel then runs nothing."""
MACHINE: Final = platform.machine()
_LAST: Final = 469
"""The newest call that is known here (Linux 6.17). Later calls look unimplemented, as on an old kernel."""

AF_UNIX: Final = 1
AF_INET: Final = 2
AF_INET6: Final = 10
AF_NETLINK: Final = 16
NETLINK_ROUTE: Final = 0
TIOCSTI: Final = 0x5412
TIOCLINUX: Final = 0x541C
PERSONALITIES: Final = (0, 0x8, 0x40000, 0x40008, 0xFFFFFFFF)
"""PER_LINUX, PER_LINUX32 (builds under ``setarch``), both without address randomization (gdb), and the question
which personality is set."""
SHARED_SEGMENT_BYTES: Final = 64 * 1024
"""The largest System V shared memory segment. Such memory stays when no process has it mapped, so the watcher does not
see it. A namespace has at most 4,096 segments, hence at most 256 MB. PostgreSQL needs one of 56 bytes."""

NUMBERS: Final[dict[str, tuple[int | None, int | None]]] = {
    # Mounts and roots.
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
    "open_tree_attr": (467, 467),
    # The machine and its kernel.
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "create_module": (174, None),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "query_module": (178, None),
    "get_kernel_syms": (177, None),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "iopl": (172, None),
    "ioperm": (173, None),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    # Other namespaces, processes and files.
    "setns": (308, 268),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "process_madvise": (440, 440),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    # The kernel's keys are not separated by namespaces.
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # Programs fall back when these are not implemented.
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "clone3": (435, 435),
    # Decided by their arguments.
    "unshare": (272, 97),
    "clone": (56, 220),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "ioctl": (16, 29),
    "personality": (135, 92),
    "shmget": (29, 194),
}
"""The calls named in this module, with their numbers on x86_64 and aarch64; ``None`` where a machine lacks the call."""

# ptrace, process_vm_readv and process_vm_writev are allowed: gdb and strace need them, the PID namespace hides all
# processes outside, and the kernel refuses them for processes that are not dumpable (the engine, and PID 1 if it asks
# for it), because nothing in a sandbox has a capability.
NOT_IMPLEMENTED: Final = (
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    # Memory without a mapping and without a file: the watcher of memory would not see it.
    "memfd_create",
    "memfd_secret",
)
BY_ARGUMENTS: Final = (
    "clone",
    "clone3",
    "unshare",
    "socket",
    "socketpair",
    "ioctl",
    "personality",
    "shmget",
)
REFUSED: Final = tuple(name for name in NUMBERS if name not in {*NOT_IMPLEMENTED, *BY_ARGUMENTS})
"""The calls that always fail with EPERM."""


class UnknownMachine(ValueError):
    """No numbers of system calls are known for this machine."""


@dataclass(frozen=True, slots=True)
class _Machine:
    """The architecture's number in ``struct seccomp_data`` and its column in ``NUMBERS``."""

    audit: int
    column: int


_MACHINES: Final = {
    "x86_64": _Machine(audit=0xC000003E, column=0),
    "aarch64": _Machine(audit=0xC00000B7, column=1),
}


def build_filter(*, allow_user_namespaces: bool = False, machine: str = MACHINE) -> bytes:
    """Return the filter: an array of ``struct sock_filter``, 8 bytes each, in the byte order of both machines.

    ``machine`` is ``x86_64`` or ``aarch64``, otherwise ``UnknownMachine`` is raised. With ``allow_user_namespaces``,
    ``clone``, ``clone3`` and ``unshare`` are not checked and ``chroot`` is allowed, which Chromium's own sandbox needs.
    Mounts stay refused.
    """
    if machine not in _MACHINES:
        raise UnknownMachine(
            f"No system call filter exists for {machine}. Sandboxes run on x86_64 and aarch64."
        )
    known = _MACHINES[machine]

    def rule(name: str, body: Sequence[Instruction]) -> list[Instruction]:
        """Return ``body`` for one call. The call's number is loaded before, and the body ends with a verdict."""
        number = NUMBERS[name][known.column]
        return [] if number is None else [(_EQUAL, 0, len(body), number), *body]

    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, known.audit),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_EQUAL, 0, 1, _UNTOUCHED),
        (_RETURN, 0, 0, ALLOW),
        # The numbers of the x32 interface of x86_64 begin at 0x40000000 and at 512.
        (_GREATER, 0, 1, _LAST),
        _fail(errno.ENOSYS),
    ]
    # The calls that programs use most come first.
    program += rule("ioctl", _refuse_values(1, (TIOCSTI, TIOCLINUX), errno.EPERM))
    program += rule("socket", _check_socket())
    program += rule("socketpair", _allow_values(0, (AF_UNIX,), errno.EAFNOSUPPORT))
    program += rule("personality", _allow_values(0, PERSONALITIES, errno.EPERM))
    program += rule("shmget", _check_size(1, SHARED_SEGMENT_BYTES, errno.EINVAL))
    refused = set(REFUSED)
    if allow_user_namespaces:
        refused.remove("chroot")
    else:
        program += rule("clone", _refuse_bits(0, _CLONE_NEW, errno.EPERM))
        program += rule("unshare", _refuse_bits(0, _CLONE_NEW | _CLONE_NEWTIME, errno.EPERM))
        # Its flags are in memory, which a filter cannot read. The C library uses clone() instead.
        program += rule("clone3", [_fail(errno.ENOSYS)])
    for name in NOT_IMPLEMENTED:
        program += rule(name, [_fail(errno.ENOSYS)])
    for name in REFUSED:
        if name in refused:
            program += rule(name, [_fail(errno.EPERM)])
    program.append((_RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def _fail(code: int) -> Instruction:
    return (_RETURN, 0, 0, ERRNO | code)


def _low(argument: int) -> Instruction:
    """Load the low 32 bits of an argument: all that the kernel reads of an ``int``, whatever the high bits are."""
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)


def _high(argument: int) -> Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * argument + 4)


def _switch(
    argument: int, values: Sequence[int], *, match: Instruction, otherwise: Instruction
) -> list[Instruction]:
    tests = [(_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [_low(argument), *tests, otherwise, match]


def _refuse_values(argument: int, values: Sequence[int], code: int) -> list[Instruction]:
    return _switch(argument, values, match=_fail(code), otherwise=(_RETURN, 0, 0, ALLOW))


def _allow_values(argument: int, values: Sequence[int], code: int) -> list[Instruction]:
    return _switch(argument, values, match=(_RETURN, 0, 0, ALLOW), otherwise=_fail(code))


def _refuse_bits(argument: int, bits: int, code: int) -> list[Instruction]:
    return [_low(argument), (_ANY_BIT, 0, 1, bits), _fail(code), (_RETURN, 0, 0, ALLOW)]


def _check_size(argument: int, limit: int, code: int) -> list[Instruction]:
    return [
        _high(argument),
        (_EQUAL, 0, 2, 0),
        _low(argument),
        (_GREATER, 0, 1, limit),
        _fail(code),
        (_RETURN, 0, 0, ALLOW),
    ]


def _check_socket() -> list[Instruction]:
    """Allow Unix and internet sockets and, for lists of addresses and routes, NETLINK_ROUTE.

    AF_VSOCK reaches the host from every network namespace; the others are kernel code that agents do not need.
    """
    return [
        _low(0),
        (_EQUAL, 5, 0, AF_UNIX),
        (_EQUAL, 4, 0, AF_INET),
        (_EQUAL, 3, 0, AF_INET6),
        (_EQUAL, 0, 3, AF_NETLINK),
        _low(2),
        (_EQUAL, 0, 1, NETLINK_ROUTE),
        (_RETURN, 0, 0, ALLOW),
        _fail(errno.EAFNOSUPPORT),
    ]
