"""The server of the egress proxy: accepts a sandbox's connections and recognizes their protocol by the first byte."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine

from conversations.sandboxes.egress.dialing import (
    CHUNK,
    Connector,
    Dialer,
    Limits,
    Stream,
    close_gracefully,
    connect,
    is_own_address,
)
from conversations.sandboxes.egress.forwarding import ClientGone, HttpClient, linger
from conversations.sandboxes.egress.log import DecisionLog
from conversations.sandboxes.egress.policy import GATEWAY_NAME, GATEWAY_PORT, Policy
from conversations.sandboxes.egress.refusals import Refused
from conversations.sandboxes.egress.socks import (
    SOCKS4_REFUSED,
    BadDialogue,
    read_request,
    reply,
)
from conversations.sandboxes.egress.tunnels import tunnel
from lib.addresses import Address, Resolver, resolve

logger = logging.getLogger(__name__)
BACKLOG = 256
_BUSY = b"This sandbox has too many open connections. Close some of them and try again.\n"
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_BUSY), _BUSY)
)


class EgressProxy:
    """Serve one sandbox's outgoing connections: HTTP CONNECT, plain HTTP and SOCKS5 on one listening socket.

    ``policy`` is called for every decision and must be fast. ``resolver`` is called in a thread. ``connector`` gets
    only addresses that were checked. ``tls`` verifies an https gateway; the default trusts the system's authorities.
    The caller closes ``log`` after ``close``.
    """

    def __init__(
        self,
        policy: Callable[[], Policy],
        log: DecisionLog,
        *,
        limits: Limits | None = None,
        resolver: Resolver = resolve,
        connector: Connector = connect,
        is_own: Callable[[Address], bool] = is_own_address,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._dialer = Dialer(
            policy,
            log,
            limits=self._limits,
            resolver=resolver,
            connector=connector,
            is_own=is_own,
            tls=tls,
        )
        self._clients: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def open_connections(self) -> int:
        """The number of client connections that are open."""
        return len(self._clients)

    async def start(self, listener: socket.socket) -> None:
        """Serve a bound stream socket, which may listen already and may belong to another network namespace."""
        self._server = await asyncio.start_server(
            self._accept, sock=listener, limit=CHUNK, backlog=BACKLOG
        )
        self._watcher = asyncio.create_task(self._watch_policy())

    async def close(self) -> None:
        """Close the listener and all connections, and wait for their tasks. Safe to repeat."""
        if self._server is not None:
            self._server.close()
        tasks = [*self._clients, *([self._watcher] if self._watcher else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
        self._server = self._watcher = None
        self._dialer.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = Stream(reader, writer)
        count = len(self._clients)
        if count >= 2 * self._limits.connections:
            writer.transport.abort()
            return
        is_over = count >= self._limits.connections
        task = asyncio.create_task(self._finish(_answer_busy if is_over else self._serve, stream))
        self._clients.add(task)

        def forget(task: asyncio.Task[None]) -> None:
            self._clients.discard(task)
            # After a graceful close this does nothing. A task may also be cancelled before its first step.
            writer.transport.abort()

        task.add_done_callback(forget)

    async def _finish(
        self, serve: Callable[[Stream], Coroutine[None, None, None]], stream: Stream
    ) -> None:
        try:
            await serve(stream)
            await close_gracefully(stream.writer)
        except (OSError, ClientGone):
            pass  # The client is gone.
        except Exception:
            logger.exception("The egress proxy failed while it served a connection.")

    async def _serve(self, stream: Stream) -> None:
        try:
            async with asyncio.timeout(self._limits.head_seconds):
                first = await stream.reader.read(1)
        except TimeoutError:
            return
        match first:
            case b"":
                return
            case b"\x05":
                await self._serve_socks(stream)
            case b"\x04":
                self._dialer.record_malformed("socks")
                await _answer_last(stream, SOCKS4_REFUSED)
            case _:
                await HttpClient(self._dialer, self._limits, stream).serve(first)

    async def _serve_socks(self, stream: Stream) -> None:
        try:
            async with asyncio.timeout(self._limits.head_seconds):
                host, port = await read_request(stream)
        except (EOFError, TimeoutError):
            self._dialer.record_malformed("socks")
            return
        except BadDialogue as error:
            self._dialer.record_malformed("socks")
            await _answer_last(stream, error.answer)
            return
        except Refused as refused:
            self._dialer.record_malformed("socks")
            await _answer_last(stream, reply(refused.socks_reply))
            return
        try:
            if (host, port) == (GATEWAY_NAME, GATEWAY_PORT):
                self._dialer.check_name(host, port, "socks")
                stream.writer.write(reply(0))
                await HttpClient(self._dialer, self._limits, stream, behind_gateway=True).serve()
                return
            async with self._dialer.dial(host, port, "socks") as passage:
                stream.writer.write(reply(0))
                await stream.writer.drain()
                await tunnel(stream, passage.stream, self._limits)
        except Refused as refused:
            await _answer_last(stream, reply(refused.socks_reply))

    async def _watch_policy(self) -> None:
        """End open connections that a new policy no longer allows."""
        seen = self._dialer.policy()
        while True:
            await asyncio.sleep(self._limits.policy_seconds)
            try:
                policy = self._dialer.policy()
                if policy != seen:
                    self._dialer.end_refused()
                    seen = policy
            except Exception:
                logger.exception("The egress proxy could not apply a new policy.")


async def _answer_busy(stream: Stream) -> None:
    await _answer_last(stream, BUSY)


async def _answer_last(stream: Stream, answer: bytes) -> None:
    stream.writer.write(answer)
    await stream.writer.drain()
    await linger(stream)
