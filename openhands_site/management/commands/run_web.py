"""The ``run_web`` command: a process of the ``web`` role, which serves HTTP and WebSockets."""

import asyncio
import contextlib
import socket
from types import FrameType
from typing import Any

import uvicorn
from django.core.management.base import BaseCommand, CommandParser

from lib import nodes, open_files
from lib.commands import port_or_free, whole_number
from lib.reachability import watch_services
from openhands_site import static_files
from openhands_site.serving.garbage import freeze_loaded
from openhands_site.serving.guarded_http import GuardedHttp
from openhands_site.serving.lean_socket import LeanWebSocket

SOCKET_MESSAGE_BYTES = 4_194_304
"""The maximum size of a WebSocket message from a client."""
DRAIN_SECONDS = 10
"""How long running requests may take to finish after SIGTERM."""
TICK_SECONDS = 1.0
"""How often the header ``Date`` of responses is renewed."""
ACCEPTED_SECONDS = 0.5
"""How long a connection that was accepted just before SIGTERM has to send its first request."""


class Command(BaseCommand):
    help = (
        "Serve HTTP and WebSockets. On SIGTERM, running requests are finished and WebSockets are closed with code "
        "1012."
    )
    requires_system_checks = ()
    role = "web"
    application = "openhands_site.asgi:application"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
        )
        parser.add_argument(
            "--port",
            type=port_or_free,
            default=8000,
            help="port to listen on (default: %(default)s)",
        )
        parser.add_argument(
            "--fd",
            type=whole_number(0, 1_048_576),
            help="file descriptor of a listening socket to use instead of --host and --port",
        )

    def handle(self, *args: Any, host: str, port: int, fd: int | None, **options: Any) -> None:
        open_files.prepare(self.role)
        watch_services(self.role)
        static_files.prepare()
        config = uvicorn.Config(
            self.application,
            host=host,
            port=port,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            # By default uvicorn trusts forwarding headers. Here the settings decide whether they are trusted.
            proxy_headers=False,
            http=GuardedHttp,
            ws=LeanWebSocket,
            ws_max_size=SOCKET_MESSAGE_BYTES,
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        # With a listening socket of the parent process, new connections wait during a restart instead of failing.
        sockets = None if fd is None else [socket.socket(fileno=fd)]
        server = Server(config)
        address = f"{host}:{port}" if sockets is None else _address(sockets[0])
        with nodes.announce(self.role, address=address, load=server.load_figures) as server.node:
            server.run(sockets=sockets)


class Server(uvicorn.Server):
    """A uvicorn server that, when it stops, still serves the connections accepted shortly before.

    uvicorn itself closes a connection whose first request has not arrived yet. It also wakes ten times a second to see
    whether a signal has arrived; this server waits for the signal.
    """

    node: nodes.Announcement

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._has_signal = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def load_figures(self) -> dict[str, float]:
        """Return the numbers of open sockets, connections and running requests, for the list of nodes."""
        state = self.server_state
        connections = list(state.connections)
        sockets = sum("WebSocket" in type(protocol).__name__ for protocol in connections)
        return {"sockets": sockets, "connections": len(connections), "requests": len(state.tasks)}

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then exclude all objects that exist now from garbage collection."""
        await super().startup(sockets)
        freeze_loaded()  # uvicorn has loaded the application by now

    async def main_loop(self) -> None:
        """Return after a signal. Until then, renew the time in the header ``Date`` of responses each second."""
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._has_signal.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop, as uvicorn does, and wake the main loop. Called by the signal handler of the main thread."""
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._has_signal.set)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, serve the connections that were accepted shortly before, then shut down."""
        self.node.drain()
        for server in self.servers:
            server.close()
        await asyncio.sleep(ACCEPTED_SECONDS)
        await super().shutdown(sockets)
        # Not later: uvicorn raises the received signal again, which ends the process without further clean-up.
        await asyncio.to_thread(self.node.end)


def _address(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return f"{host}:{port}"
