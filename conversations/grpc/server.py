"""The gRPC server: the event service, health checks and reflection on one port, with a graceful shutdown."""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from conversations.grpc.interceptors import CallInterceptor
from conversations.grpc.service import EventService
from conversations.grpc.v1 import events_pb2
from conversations.grpc.v1.events_pb2_grpc import add_EventServiceServicer_to_server

log = logging.getLogger(__name__)
MESSAGE_BYTES = 4 * 1024 * 1024
CALLS_MAX = 2_000
GRACE_SECONDS = 10
HANDSHAKE_SECONDS = 15
IDLE_SECONDS = 600
STREAMS_PER_CONNECTION = 250
METADATA_BYTES = 32_768
NAME = events_pb2.DESCRIPTOR.services_by_name["EventService"].full_name


@dataclass(frozen=True, slots=True)
class Certificate:
    """The paths of two PEM files: a TLS certificate with its chain, and the certificate's private key."""

    chain: Path
    key: Path


class Server:
    """A gRPC server that runs until an event is set.

    At a shutdown, open calls get ten seconds to finish, and clients reconnect to another server.
    """

    def __init__(self, *, address: str, certificate: Certificate | None = None) -> None:
        self.health = HealthServicer()
        self.server = grpc.aio.server(
            interceptors=[CallInterceptor()],
            maximum_concurrent_rpcs=CALLS_MAX,
            options=[
                ("grpc.max_receive_message_length", MESSAGE_BYTES),
                ("grpc.max_send_message_length", 2 * MESSAGE_BYTES),
                # Without this option, a second server could listen on the same port and get half of the calls.
                ("grpc.so_reuseport", 0),
                # Close a connection whose client does not finish the handshake, or has no open call for a long time.
                ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1_000),
                ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1_000),
                ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION),
                ("grpc.max_metadata_size", METADATA_BYTES),
                ("grpc.http2.max_ping_strikes", 2),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            ],
        )
        add_EventServiceServicer_to_server(EventService(), self.server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        reflection.enable_server_reflection(
            [NAME, "grpc.health.v1.Health", reflection.SERVICE_NAME], self.server
        )
        self.port = self._bind(address, certificate)

    def _bind(self, address: str, certificate: Certificate | None) -> int:
        if certificate is None:
            return int(self.server.add_insecure_port(address))
        pair = (certificate.key.read_bytes(), certificate.chain.read_bytes())
        return int(self.server.add_secure_port(address, grpc.ssl_server_credentials([pair])))

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until ``stopping`` is set, then shut down gracefully."""
        await self.server.start()
        for name in ("", NAME):
            await self.health.set(name, health_pb2.HealthCheckResponse.SERVING)
        await stopping.wait()
        # Report NOT_SERVING first, so that load balancers send new calls elsewhere.
        await self.health.enter_graceful_shutdown()
        await self.server.stop(GRACE_SECONDS)
