"""From a destination to a connected stream: decide, resolve once, check all addresses, connect to a checked address."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from conversations.sandboxes.egress.log import DecisionLog
from conversations.sandboxes.egress.policy import (
    GATEWAY_NAME,
    GATEWAY_PORT,
    Decision,
    Gateway,
    Policy,
    Reason,
)
from conversations.sandboxes.egress.refusals import Refused, refusal
from lib.addresses import Address, Resolver, parse_address

CHUNK = 64 * 1024
CLOSE_SECONDS = 5.0
RESOLVER_THREADS = 8


@dataclass(frozen=True)
class Limits:
    """The limits of one sandbox's proxy."""

    connections: int = 256
    """Open client connections; each may have one connection to a host."""
    head_bytes: int = 64 * 1024
    """The size of the head of a request or response."""
    head_seconds: float = 30.0
    """The time for the first bytes and the head of a request, or for the SOCKS dialogue."""
    keep_alive_seconds: float = 75.0
    """The time between two requests on one connection."""
    resolve_seconds: float = 10.0
    connect_seconds: float = 10.0
    """The time for the connection to one address."""
    connect_total_seconds: float = 30.0
    """The time for the attempts on all addresses of a name."""
    idle_seconds: float = 3600.0
    """The time without a byte in any direction, after which a tunnel or request ends."""
    half_closed_seconds: float = 600.0
    """The time without a byte after one side has ended its direction."""
    policy_seconds: float = 1.0
    """The time between two looks at the policy for open connections."""


class Stream(NamedTuple):
    """Both directions of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Connector(Protocol):
    """Connect to an address, which was checked. With ``tls``, check the certificate for ``server_hostname``."""

    async def __call__(
        self, address: str, port: int, *, tls: ssl.SSLContext | None, server_hostname: str | None
    ) -> Stream: ...


async def connect(
    address: str, port: int, *, tls: ssl.SSLContext | None, server_hostname: str | None
) -> Stream:
    """Open a TCP connection. Raise ``OSError`` if it fails."""
    return Stream(
        *await asyncio.open_connection(
            address, port, ssl=tls, server_hostname=server_hostname, limit=CHUNK
        )
    )


def is_own_address(address: Address) -> bool:
    """Return whether an address belongs to this machine. No packet is sent.

    A firewall does not filter connections of a machine to its own public address, so its services are not public.
    """
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # The kernel chooses an own address as the source of packets to that address.
            probe.connect((str(address), 9))
            return parse_address(probe.getsockname()[0]) == address
        except OSError:
            return False


@dataclass(eq=False)
class Passage:
    """A connection that is open, or being opened, for a client."""

    host: str
    port: int
    addresses: list[Address]
    protocol: str
    gateway: Gateway | None
    task: asyncio.Task[object]
    stream: Stream = field(init=False)


class Dialer:
    """Open connections for the clients of one sandbox by its policy, and record every decision."""

    def __init__(
        self,
        policy: Callable[[], Policy],
        log: DecisionLog,
        *,
        limits: Limits,
        resolver: Resolver,
        connector: Connector,
        is_own: Callable[[Address], bool],
        tls: ssl.SSLContext | None,
    ) -> None:
        self.policy, self.limits = policy, limits
        self._log, self._resolver, self._connector = log, resolver, connector
        self._is_own, self._tls = is_own, tls
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="egress-resolver")
        self._passages: set[Passage] = set()

    def close(self) -> None:
        """Forget the lookups that still wait. A running lookup ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def record_malformed(self, protocol: str) -> None:
        """Record a request that cannot be understood."""
        self._record(Decision(False, Reason.MALFORMED), "", 0, protocol)

    def check_name(self, host: str, port: int, protocol: str) -> None:
        """Raise ``Refused``, and record it, if the policy refuses a normal host before its name is resolved."""
        decision = self.policy().decide(host, port)
        if not decision.allowed:
            raise self._refuse(decision, host, port, protocol)

    @contextlib.asynccontextmanager
    async def dial(self, host: str, port: int, protocol: str) -> AsyncIterator[Passage]:
        """Connect to a normal host; close the connection at the end. ``openhands.internal:80`` is the gateway.

        Raise ``Refused`` if the policy refuses the host or nothing answers. If the policy changes so that it refuses
        the host, the current task is cancelled.
        """
        self.check_name(host, port, protocol)
        is_gateway_name = (host, port) == (GATEWAY_NAME, GATEWAY_PORT)
        gateway = self.policy().gateway_target if is_gateway_name else None
        at = (gateway.host, gateway.port) if gateway else (host, port)
        try:
            addresses = await self._resolve(*at)
        except (OSError, UnicodeError) as error:
            decision = Decision(False, Reason.UNRESOLVABLE)
            raise self._refuse(decision, host, port, protocol) from error
        # The policy may have changed during the lookup.
        decision = self.policy().decide_addresses(host, port, addresses, is_own=self._is_own)
        if not decision.allowed:
            raise self._refuse(decision, host, port, protocol, address=str(addresses[0]))
        task = asyncio.current_task()
        assert task is not None
        passage = Passage(host, port, addresses, protocol, gateway, task)
        self._passages.add(passage)
        try:
            address, passage.stream = await self._connect(passage, *at)
            self._record(decision, host, port, protocol, address)
            try:
                yield passage
            except BaseException:
                passage.stream.writer.transport.abort()
                raise
            await close_gracefully(passage.stream.writer)
        finally:
            self._passages.discard(passage)

    def end_refused(self) -> None:
        """Cancel the tasks of the open connections that the policy no longer allows, and record the refusals."""
        policy = self.policy()
        for passage in list(self._passages):
            host, port = passage.host, passage.port
            decision = policy.decide_addresses(host, port, passage.addresses, is_own=self._is_own)
            has_moved = passage.gateway is not None and passage.gateway != policy.gateway_target
            if not decision.allowed or has_moved:
                self._passages.discard(passage)
                if not decision.allowed:
                    self._record(decision, host, port, passage.protocol)
                passage.task.cancel()

    async def _resolve(self, host: str, port: int) -> list[Address]:
        literal = parse_address(host)
        if literal is not None:
            return [literal]
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self.limits.resolve_seconds):
            texts = await loop.run_in_executor(self._threads, self._resolver, host, port)
        addresses = [parse_address(text) for text in texts]
        known = [address for address in addresses if address is not None]
        if not known or len(known) != len(addresses):
            raise OSError(f"{host} has no address")
        return known

    async def _connect(self, passage: Passage, host: str, port: int) -> tuple[str, Stream]:
        tls = self._context() if passage.gateway and passage.gateway.scheme == "https" else None
        detail, last = "no address answered in time", ""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.limits.connect_total_seconds):
                for address in passage.addresses:
                    last = str(address)
                    try:
                        async with asyncio.timeout(self.limits.connect_seconds):
                            stream = await self._connector(
                                last, port, tls=tls, server_hostname=host if tls else None
                            )
                        return last, stream
                    except OSError as error:
                        detail = _describe(error)
        decision = Decision(False, Reason.UNREACHABLE)
        raise self._refuse(
            decision, passage.host, passage.port, passage.protocol, address=last, detail=detail
        )

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def _refuse(
        self,
        decision: Decision,
        host: str,
        port: int,
        protocol: str,
        *,
        address: str = "",
        detail: str = "",
    ) -> Refused:
        self._record(decision, host, port, protocol, address)
        return refusal(decision, host, port, detail=detail)

    def _record(
        self, decision: Decision, host: str, port: int, protocol: str, address: str = ""
    ) -> None:
        self._log.record(decision, host=host, port=port, address=address, protocol=protocol)


async def close_gracefully(writer: asyncio.StreamWriter) -> None:
    """Close a connection after its last bytes were sent, or after five seconds."""
    try:
        writer.close()
        async with asyncio.timeout(CLOSE_SECONDS):
            await writer.wait_closed()
    except OSError:
        writer.transport.abort()
    except BaseException:
        writer.transport.abort()
        raise


def _describe(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return "the TLS handshake failed"
    if isinstance(error, TimeoutError) or not error.errno or error.errno < 0:
        return "no address answered in time" if isinstance(error, TimeoutError) else "it failed"
    return os.strerror(error.errno).lower()
