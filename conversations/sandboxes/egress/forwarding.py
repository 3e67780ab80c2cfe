"""HTTP/1.1 for clients of the proxy: CONNECT, and plain HTTP with a decision for every request of a connection."""

import asyncio
import contextlib

import h11

from conversations.sandboxes.egress.dialing import CHUNK, Dialer, Limits, Passage, Stream
from conversations.sandboxes.egress.heads import (
    Route,
    check_framing,
    end_to_end,
    has_body,
    parse_authority,
    parse_route,
    request_for_server,
    wants_websocket,
)
from conversations.sandboxes.egress.policy import GATEWAY_NAME, GATEWAY_PORT, Reason
from conversations.sandboxes.egress.refusals import HEADER, Refused, malformed
from conversations.sandboxes.egress.tunnels import Activity, Idle, running, tunnel, wait_for_all

LINGER_BYTES, LINGER_SECONDS = 1024 * 1024, 2.0


class ClientGone(Exception):
    """The client closed the connection or stopped reading."""


class HttpClient:
    """One client connection that speaks HTTP. ``behind_gateway`` serves requests for the gateway only."""

    def __init__(
        self, dialer: Dialer, limits: Limits, stream: Stream, *, behind_gateway: bool = False
    ) -> None:
        self._dialer, self._limits, self._stream = dialer, limits, stream
        self._behind_gateway = behind_gateway
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)

    async def serve(self, first: bytes = b"") -> None:
        """Answer requests until the connection ends. ``first`` are bytes that were already read."""
        if first:
            self._http.receive_data(first)
        patience = self._limits.head_seconds
        while True:
            try:
                request = await self._next_request(patience)
                may_continue = request is not None and await self._answer(request)
            except TimeoutError:
                self._dialer.record_malformed("http")
                await self._refuse(malformed("The request did not arrive in time."), status=408)
                return
            except h11.RemoteProtocolError as error:
                self._dialer.record_malformed("http")
                refused = malformed("The request is not valid HTTP/1.1.")
                await self._refuse(refused, status=431 if error.error_status_hint == 431 else 400)
                return
            if not may_continue:
                return
            self._http.start_next_cycle()
            patience = self._limits.keep_alive_seconds

    async def _next_request(self, patience: float) -> h11.Request | None:
        if not self._http.trailing_data[0]:
            try:
                async with asyncio.timeout(patience):
                    data = await self._stream.reader.read(CHUNK)
            except TimeoutError:
                return None
            self._http.receive_data(data)
        async with asyncio.timeout(self._limits.head_seconds):
            event = await next_event(self._http, self._stream.reader)
        return event if isinstance(event, h11.Request) else None

    async def _answer(self, request: h11.Request) -> bool:
        """Answer a request and return whether another one may follow on the connection."""
        protocol = "connect" if request.method == b"CONNECT" else "http"
        try:
            check_framing(request)
            if not has_body(request):
                self._http.next_event()  # The end of the message, which is there without further bytes.
            if request.method == b"CONNECT":
                return await self._connect(request)
            route = parse_route(request, behind_gateway=self._behind_gateway)
            return await self._forward(request, route)
        except Refused as refused:
            if refused.reason is Reason.MALFORMED:
                self._dialer.record_malformed(protocol)
            return await self._refuse(refused, is_head=request.method == b"HEAD")

    async def _connect(self, request: h11.Request) -> bool:
        if self._behind_gateway:
            raise malformed("A connection to the gateway cannot be used for CONNECT.")
        host, port = parse_authority(request.target.decode(), None)
        if (host, port) == (GATEWAY_NAME, GATEWAY_PORT):
            self._dialer.check_name(host, port, "connect")
            await self._accept_connect()
            # A raw tunnel would carry the wrong Host, and no TLS, to the gateway.
            inner = HttpClient(self._dialer, self._limits, self._stream, behind_gateway=True)
            await inner.serve(self._http.trailing_data[0])
            return False
        async with self._dialer.dial(host, port, "connect") as passage:
            await self._accept_connect()
            await tunnel(
                self._stream,
                passage.stream,
                self._limits,
                from_client=self._http.trailing_data[0],
            )
        return False

    async def _accept_connect(self) -> None:
        answer = h11.Response(status_code=200, headers=[], reason="Connection established")
        await self.send(answer)

    async def _forward(self, request: h11.Request, route: Route) -> bool:
        async with self._dialer.dial(route.host, route.port, "http") as passage:
            message = request_for_server(request, route, passage.gateway)
            exchange = _Exchange(self._http, self._stream, passage, self._limits)
            return await exchange.run(message, upgrade=wants_websocket(request))

    async def send(self, event: h11.Event) -> None:
        """Send a part of an answer. Raise ``ClientGone`` if the client no longer reads."""
        await send(self._http, self._stream, event)

    async def _refuse(
        self, refused: Refused, *, status: int | None = None, is_head: bool = False
    ) -> bool:
        """Answer with a sentence, and return whether another request may follow on the connection."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return (
                False  # The head of another answer was sent, so there is no place for a sentence.
            )
        body = f"{refused.sentence}\n".encode()
        headers = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            (HEADER, refused.reason.value),
        ]
        # The state after CONNECT is not DONE: bytes behind it were meant for the tunnel and are no request.
        is_complete = self._http.their_state is h11.DONE
        may_continue = is_complete and refused.reason is not Reason.MALFORMED
        if not may_continue:
            headers.append(("Connection", "close"))
        answer = h11.Response(status_code=status or refused.http_status, headers=headers)
        with contextlib.suppress(ClientGone):
            await self.send(answer)
            if not is_head:
                await self.send(h11.Data(data=body))
            await self.send(h11.EndOfMessage())
            if not may_continue:
                await linger(self._stream)
            return may_continue
        return False


class _Exchange:
    """One request to a server and its answer."""

    def __init__(
        self, client_http: h11.Connection, client: Stream, passage: Passage, limits: Limits
    ) -> None:
        self._client_http, self._client, self._limits = client_http, client, limits
        self._passage, self._server = passage, passage.stream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=limits.head_bytes)
        self._activity = Activity(limits.idle_seconds)

    async def run(self, request: h11.Request, *, upgrade: bool) -> bool:
        """Carry the request and the answer; return whether another request may follow on the client's connection.

        Raise ``Refused`` if the server fails before its answer begins, and ``RemoteProtocolError`` if the body of the
        client is malformed.
        """
        try:
            async with running(self._upload(request), self._download(upgrade)) as tasks:
                await wait_for_all(tasks, self._activity, until=tasks[1])
                is_upgraded = tasks[1].result()
        except Idle:
            raise self._failed("it did not answer in time") from None
        if is_upgraded:
            await tunnel(
                self._client,
                self._server,
                self._limits,
                from_client=self._client_http.trailing_data[0],
                from_upstream=self._http.trailing_data[0],
            )
            return False
        states = (self._client_http.our_state, self._client_http.their_state)
        if states == (h11.DONE, h11.DONE):
            return True
        if self._client_http.their_state is h11.SEND_BODY:
            # The server answered before the end of the body, which a reset would destroy.
            await linger(self._client)
        return False

    async def _upload(self, request: h11.Request) -> None:
        with contextlib.suppress(_ServerGone):  # Its answer may already be on the way.
            await self._send_to_server(request)
            while self._client_http.their_state is h11.SEND_BODY:
                try:
                    event = await next_event(self._client_http, self._client.reader)
                except OSError as error:
                    raise ClientGone from error
                self._activity.touch()
                if isinstance(event, h11.EndOfMessage):
                    break
                if isinstance(event, h11.Data):
                    await self._send_to_server(event)
            # Trailers are optional metadata, which a proxy may drop (RFC 9110, 6.5.1).
            await self._send_to_server(h11.EndOfMessage())

    async def _send_to_server(self, event: h11.Event) -> None:
        if self._http.our_state is h11.ERROR:
            raise _ServerGone
        data = self._http.send(event)
        try:
            self._server.writer.write(data or b"")
            await self._server.writer.drain()
        except OSError as error:
            raise _ServerGone from error
        self._activity.touch()

    async def _download(self, upgrade: bool) -> bool:  # noqa: FBT001 - the argument of run
        """Carry the answer and return whether the server switched to WebSocket."""
        while True:
            event = await self._next_from_server()
            self._activity.touch()
            match event:
                case h11.InformationalResponse(status_code=101):
                    headers = end_to_end(event)
                    headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
                    await self._send(_copy(event, headers))
                    return True
                case h11.InformationalResponse() if self._client_http.their_http_version == b"1.0":
                    pass  # HTTP/1.0 has no interim answers.
                case h11.InformationalResponse() | h11.Response():
                    await self._send(_copy(event, end_to_end(event)))
                case h11.Data():
                    await self._send(event)
                case h11.EndOfMessage():
                    await self._send(h11.EndOfMessage())
                    return False
                case _:
                    raise self._failed("it closed the connection without an answer")
            self._activity.touch()

    async def _next_from_server(self) -> h11.Event:
        try:
            return await next_event(self._http, self._server.reader)
        except h11.RemoteProtocolError as error:
            raise self._failed("its answer is not valid HTTP/1.1") from error
        except OSError as error:
            raise self._failed("it closed the connection") from error

    async def _send(self, event: h11.Event) -> None:
        await send(self._client_http, self._client, event)

    def _failed(self, detail: str) -> Exception:
        if self._client_http.our_state is h11.SEND_BODY:
            # Only a broken connection shows the client that the rest of the answer is missing.
            self._client.writer.transport.abort()
            return ClientGone()
        sentence = f"{self._passage.host} was reached on port {self._passage.port}, but {detail}."
        return Refused(Reason.UNREACHABLE, sentence)


class _ServerGone(Exception):
    """The server no longer reads the request."""


async def next_event(http: h11.Connection, reader: asyncio.StreamReader) -> h11.Event:
    """Return the next event of a peer. Raise ``RemoteProtocolError`` if it breaks the protocol."""
    while True:
        event = http.next_event()
        if isinstance(event, h11.Event):
            return event
        if event is h11.PAUSED:
            raise h11.RemoteProtocolError("bytes after the end of a message")
        http.receive_data(await reader.read(CHUNK))


async def send(http: h11.Connection, stream: Stream, event: h11.Event) -> None:
    """Send a part of an answer to a client. Raise ``ClientGone`` if it no longer reads."""
    data = http.send(event)
    try:
        stream.writer.write(data or b"")
        await stream.writer.drain()
    except OSError as error:
        raise ClientGone from error


async def linger(stream: Stream) -> None:
    """Read what the client still sends, up to 1 MB or 2 seconds: closing at once would destroy the last answer."""
    with contextlib.suppress(OSError):
        stream.writer.write_eof()
        async with asyncio.timeout(LINGER_SECONDS):
            read = 0
            while read < LINGER_BYTES and (data := await stream.reader.read(CHUNK)):
                read += len(data)


def _copy(
    event: h11.Response | h11.InformationalResponse, headers: list[tuple[bytes, bytes]]
) -> h11.Response | h11.InformationalResponse:
    return type(event)(status_code=event.status_code, headers=headers, reason=event.reason)
