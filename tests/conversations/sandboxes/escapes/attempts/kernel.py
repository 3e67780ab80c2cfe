# ruff: noqa: PTH115, PTH123, PTH208
"""Attempts to get more rights from the kernel, or to reach kernel interfaces that namespaces do not separate."""

import contextlib
import ctypes
import fcntl
import mmap
import os
import platform
import pty
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

from attempts.catalog import Hints, Refused, attempt, call, check_errno, libc

RIGHTS = "Get more rights"
MOUNTS = "Change mounts and roots"
SPACES = "Enter or make namespaces"
KERNEL = "Use other interfaces of the kernel"
MACHINE = "Change the machine's settings"


@attempt(RIGHTS, "run a setuid program (`su`) as its owner", check="")
def run_setuid(hints: Hints) -> str:
    process = subprocess.Popen(
        ["/usr/bin/su"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        time.sleep(0.3)
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        uids = next(line for line in lines if line.startswith("Uid:")).split()[1:]
    finally:
        process.kill()
    if uids[1] != "0":
        raise Refused(f"it runs with the user ids {uids}")
    # A root of a namespace that is not the host's would be no success.
    if Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]:
        raise Refused("root of a user namespace only")
    return f"user ids {uids}"


@attempt(RIGHTS, "hold a capability", needs_root=True)
def hold_capability(hints: Hints) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    sets = {line.split()[0]: int(line.split()[1], 16) for line in lines if line.startswith("Cap")}
    if not sets["CapEff:"]:
        raise Refused(f"CapEff 0, CapBnd {sets['CapBnd:']:x}")
    return f"CapEff {sets['CapEff:']:x}"


@attempt(RIGHTS, "run without `no_new_privs` and without a system call filter", check="")
def run_unfiltered(hints: Hints) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {
        line.split()[0]: line.split()[1] for line in lines if line.startswith(("NoNew", "Seccomp:"))
    }
    if found != {"NoNewPrivs:": "0", "Seccomp:": "0"}:
        raise Refused(str(found))
    return str(found)


@attempt(RIGHTS, "become user 0 by `setuid(0)`", needs_root=True)
def become_root(hints: Hints) -> str:
    os.setuid(0)
    return f"user {os.getuid()}"


@attempt(RIGHTS, "raise the limit of processes", needs_root=True)
def raise_limit(hints: Hints) -> str:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    if hard == resource.RLIM_INFINITY:
        return "there is no limit"
    resource.setrlimit(resource.RLIMIT_NPROC, (hard + 1000, hard + 1000))
    return str(resource.getrlimit(resource.RLIMIT_NPROC))


# --- Mounts -------------------------------------------------------------------------


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    call(
        "mount",
        ctypes.c_char_p(source.encode()),
        ctypes.c_char_p(target.encode()),
        ctypes.c_char_p(kind.encode() if kind else None),
        flags,
        None,
    )


@attempt(MOUNTS, "mount a tmpfs", needs_root=True)
def mount_tmpfs(hints: Hints) -> str:
    Path("mounted").mkdir(exist_ok=True)
    _mount("none", "mounted", "tmpfs", 0)
    try:
        return next(
            line
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if "/mounted " in line
        )
    finally:
        libc.umount2(b"mounted", 2)


@attempt(MOUNTS, "mount a folder of the host (bind mount)", needs_root=True)
def mount_bind(hints: Hints) -> str:
    Path("mounted").mkdir(exist_ok=True)
    _mount("/usr", "mounted", None, 4096)
    try:
        return str(sorted(os.listdir("mounted")))
    finally:
        libc.umount2(b"mounted", 2)


@attempt(MOUNTS, "unmount `/proc` or a folder that covers another one", needs_root=True)
def unmount(hints: Hints) -> str:
    for path in (hints["spare_mount"], "/tmp", "/dev/shm", "/proc"):
        if not libc.umount2(path.encode(), 2):
            return f"unmounted {path}"
    return check_errno("umount2") or ""


@attempt(MOUNTS, "remount a read-only mount as writable", needs_root=True)
def remount_writable(hints: Hints) -> str:
    for path in (hints["read_only"], "/usr", hints["engine_dir"], "/"):
        if not libc.mount(b"none", path.encode(), None, 32 | 4096, None):
            marker = Path(path, "escape-marker")
            marker.write_text("x")
            marker.unlink()
            return f"wrote into {path}"
    return check_errno("mount") or ""


@attempt(MOUNTS, "the new calls for mounts (`fsopen`, `open_tree`)", needs_root=True)
def mount_new(hints: Hints) -> str:
    tree = call("open_tree", -100, ctypes.c_char_p(b"/usr"), 1)
    return f"descriptors {tree}, {call('fsopen', ctypes.c_char_p(b'tmpfs'), 0)}"


@attempt(MOUNTS, "`pivot_root`", needs_root=True)
def pivot(hints: Hints) -> str:
    libc.unshare(0x20000)
    libc.mount(b"none", b"/", None, 0x44000, None)
    Path("new-root").mkdir(exist_ok=True)
    libc.mount(b"none", b"new-root", b"tmpfs", 0, None)
    Path("new-root/old").mkdir(exist_ok=True)
    call("pivot_root", ctypes.c_char_p(b"new-root"), ctypes.c_char_p(b"new-root/old"))
    return f"new root with {os.listdir('/')}"


@attempt(MOUNTS, "`chroot`", needs_root=True)
def change_root(hints: Hints) -> str:
    os.chroot(".")
    return f"new root with {os.listdir('/')}"


# --- Namespaces -----------------------------------------------------------------------


@attempt(SPACES, "a nested user namespace by `unshare`", check="")
def unshare_user(hints: Hints) -> str:
    before = os.readlink("/proc/self/ns/user")
    call("unshare", 0x10000000)
    after = os.readlink("/proc/self/ns/user")
    return f"{before} became {after}"


@attempt(SPACES, "a nested user namespace by `clone`", check="")
def clone_user(hints: Hints) -> str:
    pid = call("clone", 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return f"process {pid}"


@attempt(SPACES, "a nested user namespace by `clone3`", check="")
def clone3_user(hints: Hints) -> str:
    arguments = struct.pack("QQQQQQQQ", 0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    pid = call("clone3", ctypes.c_char_p(arguments), len(arguments))
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return f"process {pid}"


@attempt(SPACES, "a nested user namespace by the program `unshare -Ur`", check="")
def unshare_program(hints: Hints) -> str:
    result = subprocess.run(
        ["unshare", "-Ur", "cat", "/proc/self/uid_map"], capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise Refused(result.stderr)
    return result.stdout


@attempt(SPACES, "a nested mount, network or PID namespace", needs_root=True)
def unshare_others(hints: Hints) -> str:
    done = [
        f"{flag:x}"
        for flag in (0x20000, 0x40000000, 0x20000000, 0x2000000)
        if not libc.unshare(flag)
    ]
    return f"made {done}" if done else check_errno("unshare") or ""


@attempt(SPACES, "enter namespaces of the host by `setns`", needs_root=True)
def enter_namespaces(hints: Hints) -> str:
    error: OSError | None = None
    for pid in (hints["victim"], 1):
        for name, flag in (("mnt", 0x20000), ("net", 0x40000000), ("uts", 0x4000000)):
            try:
                descriptor = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY)
                call("setns", descriptor, flag)
                return f"entered {name} of {pid}"
            except OSError as raised:
                error = raised
    raise error or Refused()


# --- The kernel -----------------------------------------------------------------------


@attempt(KERNEL, "read a key of the server from the kernel's keyring", proof="key")
def read_key(hints: Hints) -> str:
    error: OSError | None = None
    for ring in (-3, -4, -5):  # of the session, of the user, of the user's sessions
        try:
            name = (ctypes.c_char_p(b"user"), ctypes.c_char_p(b"escape-key"))
            number = call("keyctl", 10, ring, *name, 0)
            buffer = ctypes.create_string_buffer(200)
            call("keyctl", 11, number, buffer, 200, 0)
            return buffer.value.decode()
        except OSError as raised:
            error = raised
    raise error or Refused()


@attempt(KERNEL, "read that key by its number", proof="key")
def read_key_by_number(hints: Hints) -> str:
    buffer = ctypes.create_string_buffer(200)
    call("keyctl", 11, hints["key"], buffer, 200, 0)
    return buffer.value.decode()


@attempt(KERNEL, "add a key to the keyring", check="")
def add_key(hints: Hints) -> str:
    return f"key {call('add_key', ctypes.c_char_p(b'user'), ctypes.c_char_p(b'agent'), ctypes.c_char_p(b'x'), 1, -4)}"


@attempt(KERNEL, "`bpf`: make a map", needs_root=True)
def use_bpf(hints: Hints) -> str:
    return f"descriptor {call('bpf', 0, ctypes.c_char_p(struct.pack('IIII', 2, 4, 4, 1) + bytes(112)), 128)}"


@attempt(KERNEL, "`perf_event_open`", check="")
def use_perf(hints: Hints) -> str:
    attributes = struct.pack("IIQQQQQ", 1, 112, 0, 0, 0, 0, 1 << 5 | 1 << 6) + bytes(
        64
    )  # without kernel
    return f"descriptor {call('perf_event_open', ctypes.c_char_p(attributes), 0, -1, -1, 0)}"


@attempt(KERNEL, "`userfaultfd`", check="")
def use_userfaultfd(hints: Hints) -> str:
    return f"descriptor {call('userfaultfd', 1)}"


@attempt(KERNEL, "`io_uring_setup`", check="")
def use_io_uring(hints: Hints) -> str:
    return f"descriptor {call('io_uring_setup', 4, ctypes.create_string_buffer(120))}"


@attempt(KERNEL, "read the kernel's log", needs_root=True)
def read_kernel_log(hints: Hints) -> str:
    buffer = ctypes.create_string_buffer(2000)
    return f"{call('syslog', 3, buffer, 2000)} bytes"


@attempt(KERNEL, "`kcmp` with a process of the server", check="")
def compare(hints: Hints) -> str:
    return f"result {call('kcmp', os.getpid(), hints['victim'], 0, 0, 0)}"


@attempt(KERNEL, "32-bit system calls (`int 0x80`), which a filter could miss", check="")
def call_32_bit(hints: Hints) -> str:
    if platform.machine() != "x86_64":
        raise Refused("this machine has none")
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(
        b"\x53\xb8\x14\x00\x00\x00\xcd\x80\x5b\xc3"
    )  # push rbx; mov eax, getpid; int 0x80; pop rbx; ret
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, str(ctypes.CFUNCTYPE(ctypes.c_int)(address)()).encode())
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    if os.read(reader, 20).decode() != str(pid):
        raise Refused(f"the process ended with status {os.waitstatus_to_exitcode(status)}")
    return f"getpid gave {pid}"


@attempt(KERNEL, "x32 system calls, which a filter could miss", check="")
def call_x32(hints: Hints) -> str:
    # Without x32 in the kernel, the control shows what a call above all numbers does.
    libc.syscall(ctypes.c_long(0x40000000 + 39))
    raise Refused(os.strerror(ctypes.get_errno()))


@attempt(KERNEL, "type into another program's terminal (TIOCSTI)", needs_root=True)
def type_into_terminal(hints: Hints) -> str:
    pid, main = pty.fork()
    if pid == 0:
        with contextlib.suppress(OSError):
            for character in b"typed\n":
                fcntl.ioctl(0, termios.TIOCSTI, bytes([character]))
            os.write(1, b"did it: " + os.read(0, 100))
        os._exit(0)
    data = b""
    with contextlib.suppress(OSError):
        while part := os.read(main, 1000):
            data += part
    os.waitpid(pid, 0)
    if b"did it: typed" not in data:
        raise Refused("the terminal got nothing")
    return data.decode()


@attempt(KERNEL, "read what is typed into the server's terminal (`/dev/pts`)", proof="terminal")
def read_terminal(hints: Hints) -> str:
    with open(hints["terminal"], "r+b", 0) as file:
        os.set_blocking(file.fileno(), False)
        return (os.read(file.fileno(), 200) or b"").decode()


@attempt(KERNEL, "the machine's devices (disk, kernel log, memory)", needs_root=True)
def read_devices(hints: Hints) -> str:
    error: OSError | None = None
    for path in (
        hints["disk_path"],
        "/dev/kmsg",
        "/dev/mem",
        "/dev/kvm",
        "/dev/fuse",
        "/dev/userfaultfd",
    ):
        try:
            os.close(os.open(path, os.O_RDWR if "kvm" in path or "fuse" in path else os.O_RDONLY))
            return f"opened {path}"
        except OSError as raised:
            error = raised
    raise error or Refused()


# --- Settings ---------------------------------------------------------------------------


def _write_same(path: str) -> str:
    """Write the value of a setting that it has already."""
    text = Path(path).read_text()
    chosen = text.split("[")[1].split("]")[0] if "[" in text else text
    Path(path).write_text(chosen)
    return f"wrote {chosen.strip()!r} to {path}"


@attempt(MACHINE, "`/proc/sys/kernel/core_pattern`", needs_root=True)
def write_core_pattern(hints: Hints) -> str:
    return _write_same("/proc/sys/kernel/core_pattern")


@attempt(MACHINE, "`/proc/sys/vm/swappiness`", needs_root=True)
def write_sysctl(hints: Hints) -> str:
    return _write_same("/proc/sys/vm/swappiness")


@attempt(MACHINE, "`/proc/sysrq-trigger`", needs_root=True)
def write_sysrq(hints: Hints) -> str:
    Path("/proc/sysrq-trigger").write_text("h")  # prints a help text into the kernel's log
    return "wrote h"


@attempt(MACHINE, "`/sys` (transparent huge pages)", needs_root=True)
def write_sys(hints: Hints) -> str:
    return _write_same("/sys/kernel/mm/transparent_hugepage/enabled")


@attempt(MACHINE, "a cgroup's `release_agent`", needs_root=True)
def write_release_agent(hints: Hints) -> str:
    for path in Path("/sys/fs/cgroup").glob("*/release_agent"):
        text = path.read_text()
        path.write_text(text or "\n")
        return f"wrote to {path}"
    raise Refused("no cgroup with this file is visible")


@attempt(MACHINE, "its own cgroup (leave it, or change limits)", needs_root=True)
def leave_cgroup(hints: Hints) -> str:
    for path in Path("/sys/fs/cgroup").rglob("cgroup.procs"):
        with contextlib.suppress(OSError):
            path.write_text(str(os.getpid()))
            return f"moved to {path}"
    raise Refused("no cgroup is visible or writable")
