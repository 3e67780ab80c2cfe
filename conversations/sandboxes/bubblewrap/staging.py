"""Make folders reachable for the unprivileged user that starts bubblewrap for a server that runs as root.

Bubblewrap resolves the path of each mount's source as its own user, also for ``--bind-fd``. So it cannot mount a folder
beneath a closed one, such as an engine beneath ``/root``. Root can first mount that folder elsewhere, for its own
process only.
"""

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path

_CLONE_NEWNS = 0x20000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_SLAVE = 0x2, 0x4, 0x1000, 0x4000, 0x80000


def stage(folder: Path, sources: Mapping[str, Path]) -> None:
    """Mount each source at ``folder`` / name, visible to this process and its future children only.

    ``folder`` exists, and every user can enter its parents. A source is a folder or a file. The process gets a mount
    namespace of its own, so call it once, while the process has one thread. Raise ``OSError`` without the capability
    ``SYS_ADMIN`` or if a source is missing.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        raise _error("A mount namespace cannot be created")
    # Mounts that the machine adds or removes later still appear here, but not the other way round.
    _mount(libc, "none", Path("/"), None, _MS_REC | _MS_SLAVE)
    _mount(libc, "tmpfs", folder, "tmpfs", _MS_NOSUID | _MS_NODEV, options="mode=0711,size=64k")
    for name, source in sources.items():
        place = folder / name
        if source.is_dir():
            place.mkdir()
        else:
            place.touch()
        _mount(libc, str(source), place, None, _MS_BIND | _MS_REC)


def _mount(
    libc: ctypes.CDLL, source: str, target: Path, kind: str | None, flags: int, *, options: str = ""
) -> None:
    result = libc.mount(
        source.encode(),
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    if result:
        raise _error(f"{source} cannot be mounted at {target}")


def _error(text: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{text}: {os.strerror(code)}")
