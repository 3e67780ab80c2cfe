"""Make this process non-dumpable when the module is imported.

Other processes of the same user without capabilities can then read neither its environment, memory and open files in
``/proc`` nor trace it, and it writes no core dump. The engine imports this file by ``--import-modules nondumpable``;
``python -I -S`` imports it in the sandbox's first process. It uses the standard library only.

``execve`` resets the flag, and a forked child keeps it until then.
"""

import ctypes
import os

_PR_SET_DUMPABLE = 4


def _forbid_dumps() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(_PR_SET_DUMPABLE, zero, zero, zero, zero):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE) failed", os.fspath(__file__))


_forbid_dumps()
