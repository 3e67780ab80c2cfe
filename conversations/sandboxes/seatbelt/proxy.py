"""The egress proxy of one sandbox on macOS: a process on the host that listens on a loopback port.

The provider starts it with ``python -m conversations.sandboxes.seatbelt.proxy FD PID CREATED`` in the sandbox's folder.
It serves the listening socket ``FD`` by ``policy.json``, records its decisions in ``egress.log``, and ends when the
engine (process ``PID``, created at ``CREATED``) ended. It uses neither Django nor the database.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import psutil

from conversations.sandboxes.egress.log import DecisionLog
from conversations.sandboxes.egress.policy import PolicyFile
from conversations.sandboxes.egress.proxy import EgressProxy

CHECK_SECONDS = 1.0
"""The pause between two checks whether the engine still runs."""


async def serve(listener: socket.socket, pid: int, created: float) -> None:
    """Serve the proxy until the engine ends or this process is asked to end (SIGTERM)."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    log = DecisionLog(Path("egress.log"))
    proxy = EgressProxy(PolicyFile(Path("policy.json")), log)
    await proxy.start(listener)
    while not stopping.is_set() and _runs(pid, created):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), CHECK_SECONDS)
    await proxy.close()
    log.close()


def _runs(pid: int, created: float) -> bool:
    try:
        process = psutil.Process(pid)
        # The process id may belong to another process by now.
        is_same = abs(process.create_time() - created) < 0.1
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def main() -> None:
    """Run the proxy for the socket and the engine named by the arguments."""
    fd, pid, created = sys.argv[1:]
    os.umask(0o077)
    asyncio.run(serve(socket.socket(fileno=int(fd)), int(pid), float(created)))


if __name__ == "__main__":
    main()
