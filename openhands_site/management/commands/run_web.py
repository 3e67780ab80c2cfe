"""Serves HTTP and sockets: the ``web`` role."""

import asyncio
import socket
from typing import Any

import uvicorn
from django.core.management.base import BaseCommand, CommandParser

from lib import nodes
from openhands_site.serving.garbage import freeze_loaded
from openhands_site.serving.lean_socket import LeanWebSocket

SOCKET_MESSAGE_BYTES = 4_194_304
DRAIN_SECONDS = 10
ACCEPTED_SECONDS = 0.5


class Command(BaseCommand):
    help = "Serve HTTP and WebSockets. SIGTERM finishes requests and closes sockets with 1012."
    requires_system_checks = ()
    role = "web"
    application = "openhands_site.asgi:application"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument(
            "--fd", type=int, help="a listening socket to use instead of host and port"
        )

    def handle(self, *args: Any, host: str, port: int, fd: int | None, **options: Any) -> None:
        config = uvicorn.Config(
            self.application,
            host=host,
            port=port,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            # TRUST_X_FORWARDED_PROTO says whether a proxy is in front, not the headers themselves.
            proxy_headers=False,
            ws=LeanWebSocket,
            ws_max_size=SOCKET_MESSAGE_BYTES,
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        # A socket that our parent holds keeps connections waiting, not refused, while we are restarted.
        sockets = None if fd is None else [socket.socket(fileno=fd)]
        server = Server(config)
        address = f"{host}:{port}" if sockets is None else _name(sockets[0])
        with nodes.announced(self.role, address=address, load=server.figures) as server.node:
            server.run(sockets=sockets)


class Server(uvicorn.Server):
    """uvicorn, which on its own ends connections whose first request is still on its way."""

    node: nodes.Announcement

    def figures(self) -> dict[str, float]:
        """What this process has to do, for the list of nodes."""
        state = self.server_state
        connections = list(state.connections)
        sockets = sum("WebSocket" in type(one).__name__ for one in connections)
        return {"sockets": sockets, "connections": len(connections), "requests": len(state.tasks)}

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; by now the application is loaded."""
        await super().startup(sockets)
        freeze_loaded()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, answer what was accepted a moment ago, then end in order."""
        self.node.drain()
        for server in self.servers:
            server.close()
        await asyncio.sleep(ACCEPTED_SECONDS)
        await super().shutdown(sockets)
        await asyncio.to_thread(self.node.end)  # uvicorn ends the process by the signal it was sent


def _name(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return f"{host}:{port}"
