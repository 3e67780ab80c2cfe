"""The open network of a sandbox: ``pasta`` (of the package passt) connects its network namespace to the host's network.

With it, programs in a sandbox use any protocol without the proxy, for example UDP, ssh and ping. What remains refused:

- The host's loopback addresses. The sandbox has its own, and no port is forwarded in either direction.
- Link-local addresses and the metadata services of clouds, by rules of routing in the sandbox's namespace.

Private networks ARE reachable, and so are services of this machine that listen on an address other than loopback and
the one of its default route, which the sandbox itself has. The hosts of ``denied`` are refused only by the proxy, which
keeps running. Connections are not logged one by one: the decision log contains one line when the network opens.
"""

import asyncio
import contextlib
import os
import re
import sys
import time
from collections import deque
from pathlib import Path

LAUNCHER = Path(__file__).with_name("pasta_launcher.py")
OPEN_SECONDS = 10.0
"""How long pasta may take to configure the sandbox's network."""
_TUN = Path("/dev/net/tun")
_NOISE = re.compile(r"^(\d+\.\d+: )?(Failed to send \d+ bytes to syslog)?")


def find_obstacle(pasta: str) -> str:
    """Return why this machine cannot offer the open network and what to do, or an empty text.

    ``pasta`` is the path of the program, or empty.
    """
    if not pasta:
        return "The open network needs pasta. Install the package passt and restart the server."
    if not _TUN.exists():
        return (
            f"The open network needs the device {_TUN}. Load the kernel module tun, "
            "or pass the device to the container."
        )
    if not os.access(_TUN, os.R_OK | os.W_OK):
        return f"The open network needs the device {_TUN}, which this user may not open. Run: chmod 666 {_TUN}"
    return ""


class NetworkFailure(Exception):
    """The open network could not be started, or it ended. The message is a sentence for the sandbox's owner."""


class OpenNetwork:
    """The open network of one sandbox. Use it on one event loop, in the main thread.

    ``init`` is the process id of the sandbox's process 1, and ``uid`` the sandbox's user if the server runs as root.
    """

    def __init__(self, pasta: str, init: int, uid: int | None) -> None:
        self._pasta, self._init, self._uid = pasta, init, uid
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._lines: deque[str] = deque(maxlen=5)

    @property
    def is_open(self) -> bool:
        """Whether ``open`` succeeded and ``close`` was not called since then."""
        return self._process is not None

    async def open(self) -> None:
        """Connect the sandbox; return when its network is configured. Raise ``NetworkFailure`` otherwise."""
        if obstacle := find_obstacle(self._pasta):
            raise NetworkFailure(obstacle)
        user = "-" if self._uid is None else str(self._uid)
        # PR_SET_PDEATHSIG counts from the thread that starts the process, so this must be the main thread.
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(LAUNCHER)),
            *(self._pasta, str(self._init), user, str(os.getpid())),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={},
        )
        self._lines.clear()
        self._reading = asyncio.create_task(self._read_messages(self._process))
        until = time.monotonic() + OPEN_SECONDS
        while not has_route(self._init):
            if self._process.returncode is not None or time.monotonic() > until:
                sentence = await self._explain("The open network could not be started")
                await self.close()
                raise NetworkFailure(sentence)
            await asyncio.sleep(0.02)

    async def check(self) -> None:
        """Raise ``NetworkFailure`` if the network is open and pasta has ended by itself."""
        if self._process and self._process.returncode is not None:
            sentence = await self._explain("The open network ended")
            await self.close()
            raise NetworkFailure(sentence)

    async def close(self) -> None:
        """End pasta. The sandbox's network device disappears with it. Safe to repeat."""
        process, self._process = self._process, None
        if process:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._reading:
            await self._reading
            self._reading = None

    async def _read_messages(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr
        while data := await process.stderr.read(4096):
            for line in data.decode(errors="replace").splitlines():
                if text := _NOISE.sub("", line).strip():
                    self._lines.append(text)

    async def _explain(self, what: str) -> str:
        assert self._process
        if self._process.returncode is None:
            cause = f"pasta did not configure it within {OPEN_SECONDS:.0f} s"
        else:
            if self._reading:
                await self._reading
            cause = f"pasta ended with status {self._process.returncode}"
        details = f" ({self._lines[-1].rstrip('.')})" if self._lines else ""
        return (
            f"{what}: {cause}{details}. The sandbox was stopped, and its files are kept. Start it again, or choose "
            "another network profile."
        )


def has_route(init: int) -> bool:
    """Return whether the network namespace of a process has a default route."""
    folder = Path(f"/proc/{init}/net")
    with contextlib.suppress(OSError):
        for line in (folder / "route").read_text().splitlines()[1:]:
            if line.split()[1] == "00000000":
                return True
    with contextlib.suppress(OSError):
        for line in (folder / "ipv6_route").read_text().splitlines():
            fields = line.split()
            if fields[0] == "0" * 32 and fields[1] == "00" and fields[9] != "lo":
                return True
    return False
