"""A copy of the files of one sandbox for another, made where only these two folders exist.

The files belong to agents, which may replace a folder by a symbolic link while it is copied. In a mount namespace with
nothing else in it, such a link leads nowhere.
"""

import os
import subprocess
from pathlib import Path

from conversations.sandboxes.bubblewrap import support
from conversations.sandboxes.provider import SandboxUnavailable

COPY_SECONDS = 600
_SYSTEM = ("bin", "lib", "lib64", "sbin")


def copy_folder(source: Path, target: Path) -> None:
    """Copy all files below ``source`` into ``target`` and give them to the owner of ``target``.

    Symbolic links stay links. Sockets and pipes are skipped. Raise ``SandboxUnavailable`` if the copy fails.
    """
    bwrap = support.probe().bwrap
    arguments = ["--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    arguments += ["--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev"]
    for name in _SYSTEM:
        path = Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    arguments += ["--ro-bind", str(source), "/source", "--bind", str(target), "/target"]
    owner = target.stat()
    script = "cd /source && find . -mindepth 1 \\( -type f -o -type d -o -type l \\) -print0 | "
    script += "tar --null --no-recursion -T - -cf - | tar -C /target -xpf - --no-same-owner"
    if os.geteuid() == 0:
        # Root needs its real rights to read the files of one user and to give the copies to another.
        arguments[0] = "--unshare-pid"
        arguments += ["--unshare-net", "--unshare-ipc", "--cap-add", "ALL"]
        script += f" && chown -hR {owner.st_uid}:{owner.st_gid} /target"
    arguments += ["--chdir", "/", "--setenv", "PATH", "/usr/bin:/bin", "/bin/sh", "-c", script]
    try:
        result = subprocess.run(
            [bwrap, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COPY_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SandboxUnavailable(
            f"The files could not be copied within {COPY_SECONDS} seconds."
        ) from error
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["no message"]
        # The first line names the file; the last one only says that there were errors.
        raise SandboxUnavailable(f"The files could not be copied: {lines[0].rstrip('.')}.")
