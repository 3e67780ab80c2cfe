"""The start of ``bwrap`` by a server that runs as root, under a user id of the sandbox's own.

``bwrap`` itself then has no privileges, so it cannot reach folders that only root may enter. This module mounts these
folders at a place that every user may enter, in a mount namespace that only ``bwrap`` sees.
"""

import ctypes
import os
import random
from collections.abc import Callable
from pathlib import Path

UIDS = range(1_900_000_000, 2_100_000_000)
"""The user ids of sandboxes: above the ranges of people, services, containers and systemd (systemd.io, UIDS-GIDS)."""
_CONTAINER_UIDS = range(10_000, 60_000)
_STAGES = ("/mnt", "/media", "/srv", "/tmp")  # noqa: S108 - a mount point, in a namespace of its own
_CLONE_NEWNS = 0x20000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 0x1000, 0x4000, 0x40000
_PUBLIC = ("/usr", "/etc/", "/bin/", "/sbin/", "/lib")


def choose_uid(sandboxes: Path) -> int:
    """Return a user id that owns no sandbox. The caller holds a lock on the folder of all sandboxes.

    In a container whose user namespace has only few user ids, those from 10,000 on are used.
    """
    used = set()
    for folder in sandboxes.iterdir():
        try:
            used.add((folder / "project").lstat().st_uid)
        except OSError:
            continue
    while (uid := random.choice(find_uids())) in used:  # noqa: S311 - not a secret
        pass
    return uid


def find_uids() -> range:
    """Return the user ids for sandboxes on this machine."""
    return UIDS if _is_mapped(UIDS[0]) and _is_mapped(UIDS[-1]) else _CONTAINER_UIDS


def _is_mapped(uid: int) -> bool:
    """Return whether a user id exists in this process's user namespace."""
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, _, count = map(int, line.split())
        if first <= uid < first + count:
            return True
    return False


def plan_staging(sources: list[str], bwrap: str) -> tuple[dict[str, str], str]:
    """Return where each source will be mounted, and the path at which ``bwrap`` can be executed."""
    stage = next(path for path in _STAGES if Path(path).is_dir())
    staged = {
        source: f"{stage}/{number}"
        for number, source in enumerate(dict.fromkeys(sources))
        if not _is_public(source)
    }
    if _is_public(bwrap):
        return staged, bwrap
    # The wheel's program loads a library from a folder beside its package.
    packages = Path(bwrap).parents[2]
    staged[str(packages)] = f"{stage}/packages"
    return staged, f"{stage}/packages/{Path(bwrap).relative_to(packages)}"


def _is_public(source: str) -> bool:
    """Return whether every user can reach a file or folder of the system, so that it can be mounted from its place.

    Folders of the server may be in ``/usr`` too, and are closed to other users.
    """
    path = Path(source)
    return source.startswith(_PUBLIC) and all(
        place.stat().st_mode & 0o001 for place in (path.parent, *path.parent.parents)
    )


def enter_stage(staged: dict[str, str], uid: int) -> Callable[[], None]:
    """Return a ``preexec_fn`` that mounts the sources at their places and changes to the user id.

    An error ends the child with status 70 after a line on standard error.
    """
    folders = {target: Path(source).is_dir() for source, target in staged.items()}
    stage = str(Path(next(iter(staged.values()))).parent)
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result: int, action: str) -> None:
        if result:
            number = ctypes.get_errno()
            raise OSError(number, f"{action}: {os.strerror(number)}")

    def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
        encoded = (source.encode(), target.encode(), kind.encode() if kind else None)
        check(libc.mount(*encoded, flags, data.encode() or None), f"mount {target}")

    def enter() -> None:
        try:
            check(libc.unshare(_CLONE_NEWNS), "unshare")
            mount("none", "/", None, _MS_REC | _MS_PRIVATE)
            # Open the sources before the place is covered, because they may be below it, and in the new namespace,
            # because the kernel mounts nothing from another one.
            descriptors = {
                target: os.open(source, os.O_PATH | os.O_CLOEXEC)
                for source, target in staged.items()
            }
            mount("tmpfs", stage, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755,size=1m")
            for target, descriptor in descriptors.items():
                if folders[target]:
                    os.mkdir(target)  # noqa: PTH102 - between fork and exec: system calls only
                else:
                    os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
                mount(f"/proc/self/fd/{descriptor}", target, None, _MS_BIND | _MS_REC)
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        except BaseException as error:  # noqa: BLE001 - nothing above may handle an error between fork and exec
            os.write(2, f"The sandbox cannot be prepared as root: {error}\n".encode())
            os._exit(70)

    return enter
