"""Run the ``grpc`` role: serve gRPC until SIGTERM or SIGINT."""

import asyncio
import ipaddress
import signal
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from prometheus_client import start_http_server

from conversations.grpc.server import Certificate, Server
from lib import nodes, open_files
from lib.commands import port, port_or_free
from lib.reachability import watch_services


class Command(BaseCommand):
    help = (
        "Serve the gRPC API openhands.v1.EventService. Programs use it to publish and follow runs."
    )

    # The checks of models ask PostgreSQL for its version, so they would wait for it without a word.
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="Address to listen on.")
        parser.add_argument(
            "--port",
            type=port_or_free,
            default=50051,
            help="Port to listen on. 0 chooses a free port.",
        )
        parser.add_argument(
            "--tls-cert", type=Path, help="PEM file with the certificate and its chain."
        )
        parser.add_argument("--tls-key", type=Path, help="PEM file with the private key.")
        parser.add_argument(
            "--behind-proxy",
            action="store_true",
            help="Allow an address other than localhost without TLS, because a proxy in front provides TLS.",
        )
        parser.add_argument(
            "--metrics-port", type=port, help="Serve Prometheus metrics on this port of 127.0.0.1."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        open_files.prepare("grpc")
        watch_services("grpc")
        asyncio.run(self._run(**{name: options[name] for name in OPTIONS}))

    async def _run(
        self,
        *,
        host: str,
        port: int,
        tls_cert: Path | None,
        tls_key: Path | None,
        behind_proxy: bool,
        metrics_port: int | None,
    ) -> None:
        certificate = Certificate(tls_cert, tls_key) if tls_cert and tls_key else None
        if (tls_cert is None) != (tls_key is None):
            raise CommandError("Set both --tls-cert and --tls-key, or neither.")
        if certificate is None and not behind_proxy and not _is_loopback(host):
            raise CommandError(
                f"Without TLS, API keys would be sent to {host} unencrypted. Set --tls-cert and --tls-key, "
                "or --behind-proxy if a proxy in front provides TLS."
            )
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            server = Server(address=address, certificate=certificate)
        except (OSError, RuntimeError) as error:
            raise CommandError(
                f"The server cannot listen on {address} ({error}). "
                "If the port is in use, choose another one with --port."
            ) from error
        if metrics_port is not None:
            try:
                start_http_server(metrics_port, addr="127.0.0.1")
            except OSError as error:
                raise CommandError(
                    f"The metrics cannot be served at 127.0.0.1:{metrics_port} ({error.strerror}). If the port is in "
                    "use, choose another one with --metrics-port."
                ) from error
        stopping = asyncio.Event()
        with nodes.announce("grpc", address=f"{address.rpartition(':')[0]}:{server.port}") as node:

            def stop() -> None:
                node.drain()
                stopping.set()

            for name in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(name, stop)
            self.stdout.write(f"The gRPC server listens on port {server.port}.")
            self.stdout.flush()
            await server.run(stopping)


OPTIONS = ("host", "port", "tls_cert", "tls_key", "behind_proxy", "metrics_port")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
