"""Run a program in a small bubblewrap sandbox, with or without the system call filter."""

import os
import subprocess
from contextlib import ExitStack
from pathlib import Path

from conversations.sandboxes.bubblewrap import support

SYSTEM = (
    *("--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc"),
    *("--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib"),
    *("--symlink", "usr/lib64", "/lib64", "--symlink", "usr/sbin", "/sbin"),
    *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--dir", "/work"),
)
PYTHON = "/usr/bin/python3"


def run_inside(
    *command: str,
    options: tuple[str, ...] = (),
    namespaces: tuple[str, ...] = support.NAMESPACES,
    is_filtered: bool = True,
    allow_user_namespaces: bool = False,
    uid: int | None = -1,
) -> subprocess.CompletedProcess:
    """Run a command in a sandbox of the system's programs as an ordinary user; return its output as text.

    ``options`` are further options of bubblewrap, for example mounts. A server that runs as root starts it as another
    user, so these mounts must be readable by all. With the uid ``None`` it is started as the user of this process.
    """
    uid = support.choose_uid() if uid == -1 else uid
    with ExitStack() as stack:
        path = support.find_bwrap()
        program = stack.enter_context(support.open_program(path))
        descriptors = list(program.descriptors)
        rules: tuple[str, ...] = ()
        if is_filtered:
            reader = stack.enter_context(
                support.open_filter(allow_user_namespaces=allow_user_namespaces)
            )
            descriptors.append(reader)
            rules = ("--seccomp", str(reader))
        return subprocess.run(
            [
                path,
                *namespaces,
                *("--uid", "1000", "--gid", "1000", "--cap-drop", "ALL"),
                *("--die-with-parent", "--new-session", "--clearenv"),
                *("--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/tmp"),
                *("--setenv", "LANG", "C.UTF-8"),
                *SYSTEM,
                *options,
                *rules,
                *("--chdir", "/work", "--", *command),
            ],
            executable=program.path,
            env={**os.environ, **program.environment},
            pass_fds=descriptors,
            user=uid,
            group=uid,
            extra_groups=None if uid is None else (),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def share(folder: Path) -> Path:
    """Make a folder and everything in it readable by all, and writable for the user of ``run_inside``."""
    uid = support.choose_uid()
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
        if uid is not None:
            os.chown(path, uid, uid)
    return folder
