"""The cgroup of a sandbox, on machines where a part of the cgroup v2 tree is delegated to the server.

With systemd, ``Delegate=yes`` and ``DelegateSubgroup=server`` in the server's unit do this. Not tested on a real
machine: the project's build machine has cgroup v1, so the tests use a folder with the same files.
"""

import contextlib
from pathlib import Path

from conversations.sandboxes.bubblewrap.limits import Limits

CONTROLLERS = "+memory +pids +cpu"
CPU_WEIGHT = 50
"""The share of the processors under load, relative to the 100 of the server's own processes."""


def create_cgroup(delegated: Path, name: str, limits: Limits) -> Path | None:
    """Create a cgroup with the limits of a sandbox and return its folder, or None if the kernel refuses.

    ``delegated`` is the cgroup of the server's processes. The kernel gives controllers only to children of a cgroup
    without processes, so the parent of ``delegated`` is used if ``delegated`` itself contains processes.
    """
    for parent in (delegated, delegated.parent):
        group = parent / f"sandbox-{name}"
        try:
            (parent / "cgroup.subtree_control").write_text(CONTROLLERS)
            group.mkdir(exist_ok=True)
            (group / "memory.max").write_text(str(limits.memory_bytes or "max"))
            (group / "pids.max").write_text(str(limits.processes or "max"))
            (group / "cpu.weight").write_text(str(CPU_WEIGHT))
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        # Memory that is swapped out must count too, where the kernel can limit it.
        with contextlib.suppress(OSError):
            (group / "memory.swap.max").write_text("0")
        return group
    return None


def was_out_of_memory(group: Path) -> bool:
    """Return whether the kernel ended a process of the cgroup because of its limit of memory."""
    with contextlib.suppress(OSError, ValueError):
        for line in (group / "memory.events").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count) > 0
    return False


def remove_cgroup(group: Path) -> None:
    """Remove a cgroup whose processes have ended. Safe to repeat."""
    with contextlib.suppress(OSError):
        group.rmdir()
