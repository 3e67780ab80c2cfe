"""Held HTTP responses, which stay open: server-sent events, and pages of events that wait for a first event.

The view checks access, rate limits and headers in a worker thread, as for any request. With a response header, it then
hands the connection over to ``HeldResponses``. From then on a coroutine continues the response, without a thread or
a database connection.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
from django.http import HttpRequest, HttpResponse

from conversations.realtime.access import Credentials, Watcher
from conversations.realtime.frames import EventFrame, Frame, PingFrame
from conversations.realtime.hub import get_hub
from conversations.realtime.subscription import Subscription
from conversations.realtime.watching import TooManyStreams, watching
from lib.api import dumps
from lib.problems import Problem, problem_body

log = logging.getLogger(__name__)
REQUEST_HEADER = b"x-held-by"
RESPONSE_HEADER = "X-Held"
_token = secrets.token_urlsafe(24)
"""A random value in a request header, which proves that the request passed ``HeldResponses`` in this process."""
# Asks browsers to reconnect after this many milliseconds.
RETRY = b"retry: 1000\n\n"
PROTOCOL = "server-sent events"
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Misdirected(Problem):
    """The request needs a response that stays open, but reached a process without ``HeldResponses``."""

    status = 421
    code = "misdirected"
    sentence = (
        "This server process cannot keep responses open. "
        "Route this URL to a realtime process (see the deployment documentation)."
    )


class Plan(msgspec.Struct):
    """The held response that a view requests.

    ``wait`` is the longest time to wait for a first event, in seconds. None requests an endless stream of server-sent
    events instead of a page.
    """

    conversation: UUID
    user: UUID
    after: int
    epoch: int | None = None
    wait: float | None = None
    limit: int = 100


def can_hold(request: HttpRequest) -> bool:
    """Return whether ``HeldResponses`` can continue the response to this request."""
    token = request.META.get("HTTP_X_HELD_BY", "")
    return secrets.compare_digest(token.encode(), _token.encode())


def hand_over(request: HttpRequest, plan: Plan) -> HttpResponse:
    """Return a response that hands the connection over to ``HeldResponses``, which then carries out ``plan``.

    The response to HEAD has no body, so it is complete. Raise ``Misdirected`` if this process cannot hold
    the connection.
    """
    if request.method == "HEAD":
        return HttpResponse(content_type="text/event-stream")
    if not can_hold(request):
        raise Misdirected
    return HttpResponse(headers={RESPONSE_HEADER: msgspec.json.encode(plan).decode()})


class HeldResponses:
    """ASGI middleware that continues the responses that views hand over. All other responses pass unchanged."""

    def __init__(self, application: Callable[..., Awaitable[None]]) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Drop the header if the client sent it: only this middleware may set it.
        headers = [pair for pair in scope["headers"] if pair[0] != REQUEST_HEADER]
        if scope["method"] == "GET":  # a HEAD response has no body to wait for
            headers.append((REQUEST_HEADER, _token.encode()))
        inner = scope | {"headers": headers}
        detector = _HandoverDetector(send)
        await self.application(inner, receive, detector.send)
        if detector.plan is None:
            return
        # The application has returned: from here on this middleware reads the client's messages itself.
        disconnect = asyncio.create_task(_wait_for_disconnect(receive))
        response = asyncio.create_task(_respond(scope, send, detector.plan, detector.headers))
        try:
            await asyncio.wait({disconnect, response}, return_when=asyncio.FIRST_COMPLETED)
            if response.done():
                response.result()
        finally:
            for task in (disconnect, response):
                task.cancel()
            await asyncio.gather(disconnect, response, return_exceptions=True)


class _HandoverDetector:
    """An ASGI ``send`` that forwards a response or, if the view hands over, keeps its headers and drops its body."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.plan: Plan | None = None
        self.headers: list[tuple[bytes, bytes]] = []

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            name = RESPONSE_HEADER.lower().encode()
            for key, value in message["headers"]:
                if key == name:
                    self.plan = msgspec.json.decode(value, type=Plan)
            # Length and type belong to the empty placeholder response, not to the held one.
            dropped = (name, b"content-length", b"content-type")
            self.headers = [pair for pair in message["headers"] if pair[0] not in dropped]
        if self.plan is None:
            await self._send(message)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _respond(
    scope: Scope, send: Send, plan: Plan, headers: list[tuple[bytes, bytes]]
) -> None:
    # The view has checked access already, so the watcher needs only the user's id for later checks.
    watcher = Watcher(Credentials.from_scope(scope), plan.conversation, user_id=plan.user)
    try:
        await _respond_as(watcher, send, plan, headers)
    except TooManyStreams as refusal:  # raised before the response starts
        body = dumps(problem_body(status=refusal.status, code=refusal.code, detail=refusal.detail))
        headers += [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            (b"retry-after", b"5"),
        ]
        await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _respond_as(
    watcher: Watcher, send: Send, plan: Plan, headers: list[tuple[bytes, bytes]]
) -> None:
    hub = get_hub()
    async with (
        hub.subscribe(plan.conversation, after=plan.after, epoch=plan.epoch) as subscription,
        watching(watcher, subscription),
    ):
        if plan.wait is None:
            await _stream(send, subscription, headers)
        else:
            body = await _first_page(subscription, wait=plan.wait, limit=plan.limit)
            headers.append((b"content-type", b"application/json"))
            headers.append((b"content-length", str(len(body)).encode()))
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})


async def _stream(
    send: Send, subscription: Subscription, headers: list[tuple[bytes, bytes]]
) -> None:
    """Send frames as server-sent events until the subscription is over.

    A client whose stream ends because it read too slowly reconnects with its last event id.
    """
    headers.append((b"content-type", b"text/event-stream; charset=utf-8"))
    headers.append((b"x-accel-buffering", b"no"))  # nginx would otherwise buffer the stream
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": RETRY, "more_body": True})

    async def push(frames: Sequence[Frame]) -> None:
        for frame in frames:
            await send(
                frame.form_for(PROTOCOL, partial(_encode_event, frame, subscription.feed.epoch))
            )

    await subscription.send_until_over(push)
    # A client that does not accept the end of the body in time is disconnected without it.
    with contextlib.suppress(Exception):
        async with asyncio.timeout(5):
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _encode_event(frame: Frame, epoch: int) -> dict[str, Any]:
    """Return the ASGI message that sends a frame as a server-sent event with the id ``<epoch>-<seq>``.

    A ping becomes a comment. A payload is JSON text from the sandbox and may contain line breaks, and a server-sent
    event needs a ``data:`` prefix on each line.
    """
    if isinstance(frame, PingFrame):
        return {"type": "http.response.body", "body": b": ping\n\n", "more_body": True}
    seq = frame.seq if frame.reset_to is None else frame.reset_to
    head = "" if seq is None else f"id: {epoch}-{seq}\n"
    data = "".join(f"data: {line}\n" for line in _lines(frame.text))
    body = f"{head}{data}\n".encode()
    return {"type": "http.response.body", "body": body, "more_body": True}


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


async def _first_page(subscription: Subscription, *, wait: float, limit: int) -> bytes:
    """Wait for events and return them as the JSON of a REST page; return an empty page after ``wait`` seconds."""
    items: list[bytes] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait):
            async for frame in subscription.frames():
                if frame.reset_to is not None:
                    # ``epoch`` and ``last_seq`` of the page tell the client to read the log again.
                    break
                if isinstance(frame, EventFrame):
                    items.append(frame.json())
                    if len(items) >= limit or not subscription.is_behind:
                        break
    feed = subscription.feed
    end = f'],"last_seq":{feed.seq},"epoch":{feed.epoch}}}'
    return b'{"items":[' + b",".join(items) + end.encode()


def parse_event_id(last_event_id: str) -> tuple[int, int] | None:
    """Return the epoch and the seq in a ``Last-Event-ID``, or None if the text is not ``<epoch>-<seq>``."""
    epoch, _, seq = last_event_id.partition("-")
    # A number of 18 digits always fits into a bigint.
    if not all(part.isascii() and part.isdigit() and len(part) <= 18 for part in (epoch, seq)):
        return None
    return int(epoch), int(seq)
