"""Serves HTTP and sockets: the ``web`` role."""

import asyncio
import socket
from typing import Any

import uvicorn
from django.core.management.base import BaseCommand, CommandParser

SOCKET_MESSAGE_BYTES = 4_194_304
DRAIN_SECONDS = 10
ACCEPTED_SECONDS = 0.5


class Command(BaseCommand):
    help = "Serve HTTP and WebSockets. SIGTERM finishes requests and closes sockets with 1012."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument(
            "--fd", type=int, help="a listening socket to use instead of host and port"
        )

    def handle(self, *args: Any, host: str, port: int, fd: int | None, **options: Any) -> None:
        config = uvicorn.Config(
            "openhands_site.asgi:application",
            host=host,
            port=port,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            # TRUST_X_FORWARDED_PROTO says whether a proxy is in front, not the headers themselves.
            proxy_headers=False,
            ws_max_size=SOCKET_MESSAGE_BYTES,
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        # A socket that our parent holds keeps connections waiting, not refused, while we are restarted.
        sockets = None if fd is None else [socket.socket(fileno=fd)]
        Server(config).run(sockets=sockets)


class Server(uvicorn.Server):
    """uvicorn, which on its own ends connections whose first request is still on its way."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, answer what was accepted a moment ago, then end in order."""
        for server in self.servers:
            server.close()
        await asyncio.sleep(ACCEPTED_SECONDS)
        await super().shutdown(sockets)
