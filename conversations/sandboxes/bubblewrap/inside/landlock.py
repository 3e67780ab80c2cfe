"""A second wall for files inside a sandbox: Landlock (Linux 5.13 and newer) limits access to listed paths.

This file is mounted into sandboxes and imported there by ``python -I -S``, so it uses the standard library only and
imports nothing of this project.
"""

import ctypes
import errno
import os
import stat
import struct

# include/uapi/linux/landlock.h. The numbers of the calls are equal on all machines.
_CREATE_RULESET = 444
_ADD_RULE = 445
_RESTRICT_SELF = 446
_VERSION = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_EXECUTE = 1 << 0
_WRITE_FILE = 1 << 1
_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
_TRUNCATE = 1 << 14
_IOCTL_DEV = 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
"""The rights that a rule for a path that is no folder may contain."""
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All rights for files and folders, by the first ABI that knows them: the first 13, REFER, TRUNCATE, IOCTL_DEV."""
_SCOPES = 0b11
"""Abstract Unix sockets and signals (ABI 6): only those of processes with the restriction."""


def find_abi() -> int:
    """Return the kernel's version of the Landlock interface, or 0 if it has none or does not use it."""
    try:
        return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    except OSError as refusal:
        # ENOSYS: not built in. EOPNOTSUPP: off at boot. EPERM: refused by the seccomp filter of a container.
        if refusal.errno in {errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}:
            return 0
        raise


def restrict(read_only: list[str], writable: list[str], listable: list[str] | None = None) -> int:
    """Restrict this thread and all its future children to the listed paths; return the ABI, or 0 without Landlock.

    Files at and beneath ``read_only`` can be read and executed, those beneath ``writable`` can also be changed, and
    names beneath ``listable`` can be listed. A symbolic link stands for its target. Paths that do not exist are
    skipped. The restriction cannot be undone; files that are open keep their access.

    Call it while the process has one thread: other threads stay unrestricted. ``no_new_privs`` is set, also without
    Landlock. Raise ``OSError`` if the kernel refuses a part of it.
    """
    _set_no_new_privs()
    abi = find_abi()
    if not abi:
        return 0
    handled = _RIGHTS[max(first for first in _RIGHTS if first <= abi)]
    # The second field, network rights, stays empty: the network namespace has only the loopback interface.
    attributes = struct.pack("<QQQ", handled, 0, _SCOPES if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0))
    try:
        for paths, rights in (
            (read_only, _EXECUTE | _READ_FILE | _READ_DIR),
            (writable, handled),
            (listable or [], _READ_DIR),
        ):
            for path in paths:
                _allow(ruleset, path, rights & handled)
        _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)
    return abi


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _OF_FILES
        if rights:
            rule = struct.pack("<Qi", rights, place)
            _call(
                _ADD_RULE,
                ctypes.c_int(ruleset),
                ctypes.c_int(_PATH_BENEATH),
                rule,
                ctypes.c_uint32(0),
            )
    except OSError as refusal:
        raise OSError(refusal.errno, f"Landlock: {refusal.strerror}", path) from None
    finally:
        os.close(place)


def _set_no_new_privs() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    one, zero = ctypes.c_ulong(1), ctypes.c_ulong(0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, one, zero, zero, zero):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS) failed")


def _call(number: int, *arguments: "ctypes._SimpleCData[int] | bytes | None") -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result: int = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
