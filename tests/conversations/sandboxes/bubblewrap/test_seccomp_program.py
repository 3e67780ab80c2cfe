"""The program of the filter for both machines, run by an interpreter."""

import errno
import re
from pathlib import Path

import pytest

from conversations.sandboxes.bubblewrap import seccomp
from conversations.sandboxes.bubblewrap.seccomp import ALLOW, ERRNO, KILL, NUMBERS
from tests.conversations.sandboxes.bubblewrap import bpf

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
COLUMN = {"x86_64": 0, "aarch64": 1}
EPERM, ENOSYS = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS
NO_FAMILY = ERRNO | errno.EAFNOSUPPORT
machines = pytest.mark.parametrize("machine", ["x86_64", "aarch64"])


def judge(machine, name, *arguments, **options):
    number = NUMBERS[name][COLUMN[machine]] if isinstance(name, str) else name
    program = bpf.load(seccomp.build_filter(machine=machine, **options))
    return bpf.run(program, number=number, architecture=AUDIT[machine], arguments=arguments)


@machines
@pytest.mark.parametrize("allowed", [False, True])
def test_program_is_valid_and_short(machine, allowed):
    program = bpf.load(seccomp.build_filter(machine=machine, allow_user_namespaces=allowed))

    assert 100 < len(program) < 400


@machines
def test_every_number_has_the_documented_verdict(machine):
    program = bpf.load(seccomp.build_filter(machine=machine))
    column = COLUMN[machine]
    expected = {NUMBERS[name][column]: EPERM for name in seccomp.REFUSED}
    expected |= {NUMBERS[name][column]: ENOSYS for name in (*seccomp.NOT_IMPLEMENTED, "clone3")}
    # With zeros as arguments: socket(AF_UNSPEC) and socketpair(AF_UNSPEC).
    expected |= {NUMBERS[name][column]: NO_FAMILY for name in ("socket", "socketpair")}
    expected |= dict.fromkeys(range(470, 1100), ENOSYS)

    for number in range(1100):
        verdict = bpf.run(program, number=number, architecture=AUDIT[machine])
        assert verdict == expected.get(number, ALLOW), number


@machines
@pytest.mark.parametrize(
    "number", [0x40000000, 0x40000000 | 56, 0x400000FF, 0x80000000, 0xFFFFFFFE]
)
def test_numbers_of_x32_are_not_implemented(machine, number):
    assert judge(machine, number) == ENOSYS


@machines
def test_call_skipped_by_a_tracer_is_allowed(machine):
    assert judge(machine, 0xFFFFFFFF) == ALLOW


@machines
@pytest.mark.parametrize(
    "architecture", [0x40000003, 0x40000028, 0xC000003E, 0xC00000B7, 0xC00000F3]
)
def test_foreign_architecture_kills_the_process(machine, architecture):
    program = bpf.load(seccomp.build_filter(machine=machine))

    verdicts = {bpf.run(program, number=n, architecture=architecture) for n in range(600)}

    assert (verdicts == {KILL}) == (architecture != AUDIT[machine])


@machines
@pytest.mark.parametrize(
    ("name", "arguments", "verdict"),
    [
        ("socket", (1, 1, 0), ALLOW),
        ("socket", (2, 2, 17), ALLOW),
        ("socket", (10, 1, 0), ALLOW),
        ("socket", (16, 3, 0), ALLOW),
        ("socket", (16, 3, 12), NO_FAMILY),  # NETLINK_NETFILTER
        ("socket", (17, 3, 0), NO_FAMILY),  # AF_PACKET
        ("socket", (38, 5, 0), NO_FAMILY),  # AF_ALG
        ("socket", (40, 1, 0), NO_FAMILY),  # AF_VSOCK
        ("socket", (0x1_0000_0028, 1, 0), NO_FAMILY),
        ("socket", (0x28_0000_0001, 1, 0), ALLOW),  # The kernel reads AF_UNIX.
        ("socketpair", (1, 1, 0), ALLOW),
        ("socketpair", (30, 1, 0), NO_FAMILY),  # AF_TIPC
        ("ioctl", (0, 0x5412), EPERM),
        ("ioctl", (0, 0x1_0000_5412), EPERM),
        ("ioctl", (0, 0x541C), EPERM),
        ("ioctl", (0, 0x5413), ALLOW),
        ("ioctl", (0x5412, 0x5401), ALLOW),
        ("personality", (0,), ALLOW),
        ("personality", (0x8,), ALLOW),
        ("personality", (0x40000,), ALLOW),
        ("personality", (0xFFFFFFFF,), ALLOW),
        ("personality", (0xFFFFFFFF_FFFFFFFF,), ALLOW),
        ("personality", (0x400000,), EPERM),  # READ_IMPLIES_EXEC
        ("personality", (0x1_0040_0000,), EPERM),
        ("shmget", (0, 56, 0o1600), ALLOW),
        ("shmget", (0, 65536, 0o1600), ALLOW),
        ("shmget", (0, 65537, 0o1600), ERRNO | errno.EINVAL),
        ("shmget", (0, 0x1_0000_0000, 0o1600), ERRNO | errno.EINVAL),
        ("clone", (0x01200011,), ALLOW),
        ("clone", (0x3D0F00,), ALLOW),
        *[("clone", (1 << bit | 17,), EPERM) for bit in (17, 25, 26, 27, 28, 29, 30)],
        ("clone", (0xFFFFFFFF_10000000,), EPERM),
        ("unshare", (0x400,), ALLOW),
        *[("unshare", (1 << bit,), EPERM) for bit in (7, 17, 25, 26, 27, 28, 29, 30)],
    ],
)
def test_arguments_decide(machine, name, arguments, verdict):
    assert judge(machine, name, *arguments) == verdict


@machines
def test_user_namespaces_can_be_allowed(machine):
    allowed = {"allow_user_namespaces": True}

    assert judge(machine, "clone", 0x7E020011, **allowed) == ALLOW
    assert judge(machine, "unshare", 0x10000000, **allowed) == ALLOW
    assert judge(machine, "clone3", **allowed) == ALLOW
    assert judge(machine, "chroot", **allowed) == ALLOW
    assert judge(machine, "mount", **allowed) == EPERM
    assert judge(machine, "setns", **allowed) == EPERM


def test_unknown_machine_is_an_error():
    with pytest.raises(seccomp.UnknownMachine, match=r"for riscv64\. Sandboxes run on x86_64 and"):
        seccomp.build_filter(machine="riscv64")


@pytest.mark.parametrize(
    ("header", "column", "renamed"),
    [
        ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", 0, ()),
        # The numbers of aarch64 are the kernel's generic ones.
        ("/usr/include/asm-generic/unistd.h", 1, ("nfsservctl",)),
    ],
)
def test_numbers_equal_those_of_the_kernel_headers(header, column, renamed):
    if not Path(header).exists():
        pytest.skip(f"{header} is not installed")
    text = Path(header).read_text()
    # Calls newer than the headers are missing there.
    found = {n: int(v) for n, v in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    newest = max(value for value in found.values() if value < 512)

    for name, numbers in NUMBERS.items():
        number = numbers[column]
        if name in renamed or (number is not None and number > newest):
            continue
        assert found.get(name) == number, name
