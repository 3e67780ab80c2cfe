"""HTTP that stays open: server-sent events, and pages that wait for their first event.

The view decides in one of the few threads, as for any request (who, limits, headers), and hands over by a header
of its answer. Then Django is done with it: what is held afterwards is a coroutine, no thread and no connection.
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

from conversations.realtime.access import Credentials, Watcher, watching
from conversations.realtime.frames import EventFrame, Frame, PingFrame
from conversations.realtime.hub import get_hub
from conversations.realtime.subscription import Subscription
from lib.problems import Problem

log = logging.getLogger(__name__)
REQUEST_HEADER = b"x-held-by"
ANSWER_HEADER = "X-Held"
_token = secrets.token_urlsafe(24)
"""By this a view knows that its answer reaches ``Held``, in this process."""
RETRY = b"retry: 1000\n\n"
PROTOCOL = "server-sent events"
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Misdirected(Problem):
    """A server that cannot hold connections was asked to."""

    status = 421
    code = "misdirected"
    sentence = "This process answers plain requests only; send this address to a realtime process."


class Plan(msgspec.Struct):
    """What to go on with once Django has let go. ``wait`` is None for a stream, else seconds."""

    conversation: UUID
    user: UUID
    after: int
    epoch: int | None = None
    wait: float | None = None
    limit: int = 100


def can_hold(request: HttpRequest) -> bool:
    """Whether an answer to this request may be handed over."""
    shown = request.META.get("HTTP_X_HELD_BY", "")
    return secrets.compare_digest(shown.encode(), _token.encode())


def hand_over(request: HttpRequest, plan: Plan) -> HttpResponse:
    """The answer that has ``Held`` go on. Raises ``Misdirected`` where nobody would."""
    if not can_hold(request):
        raise Misdirected
    return HttpResponse(headers={ANSWER_HEADER: msgspec.json.encode(plan).decode()})


class Held:
    """ASGI: passes requests on, and goes on with those that are handed over."""

    def __init__(self, application: Callable[..., Awaitable[None]]) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [pair for pair in scope["headers"] if pair[0] != REQUEST_HEADER]
        if scope["method"] == "GET":  # a HEAD has nothing to wait for
            headers.append((REQUEST_HEADER, _token.encode()))
        inner = scope | {"headers": headers}
        opening = _Opening(send)
        await self.application(inner, receive, opening.send)
        if opening.plan is None:
            return
        leaving = asyncio.create_task(_until_left(receive))
        going_on = asyncio.create_task(_go_on(scope, send, opening.plan, opening.headers))
        try:
            await asyncio.wait({leaving, going_on}, return_when=asyncio.FIRST_COMPLETED)
            if going_on.done():
                going_on.result()
        finally:
            for task in (leaving, going_on):
                task.cancel()
            await asyncio.gather(leaving, going_on, return_exceptions=True)


class _Opening:
    """Passes an answer on, unless it hands over: then it keeps the headers and swallows the rest."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.plan: Plan | None = None
        self.headers: list[tuple[bytes, bytes]] = []

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            name = ANSWER_HEADER.lower().encode()
            for key, value in message["headers"]:
                if key == name:
                    self.plan = msgspec.json.decode(value, type=Plan)
            dropped = (name, b"content-length", b"content-type")
            self.headers = [pair for pair in message["headers"] if pair[0] not in dropped]
        if self.plan is None:
            await self._send(message)


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _go_on(scope: Scope, send: Send, plan: Plan, headers: list[tuple[bytes, bytes]]) -> None:
    watcher = Watcher(Credentials.of_scope(scope), plan.conversation, user_id=plan.user)
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
    """Frames as server-sent events; it ends like a socket does, and the client comes back with its last id."""
    headers.append((b"content-type", b"text/event-stream; charset=utf-8"))
    headers.append((b"x-accel-buffering", b"no"))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": RETRY, "more_body": True})

    async def push(frames: Sequence[Frame]) -> None:
        for frame in frames:
            await send(frame.encoded(PROTOCOL, partial(_piece, frame, subscription.feed.epoch)))

    await subscription.feed_to(push)
    with contextlib.suppress(Exception):
        async with asyncio.timeout(5):
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _piece(frame: Frame, epoch: int) -> dict[str, Any]:
    """Return a frame as a server-sent event, whose id is ``<epoch>-<seq>``; a ping is a comment.

    A payload is JSON as it came and may be broken into lines, each of which needs its own ``data:`` in this format.
    """
    if isinstance(frame, PingFrame):
        return {"type": "http.response.body", "body": b": ping\n\n", "more_body": True}
    place = frame.seq if frame.reset_to is None else frame.reset_to
    head = "" if place is None else f"id: {epoch}-{place}\n"
    data = "".join(f"data: {line}\n" for line in _lines(frame.text))
    body = f"{head}{data}\n".encode()
    return {"type": "http.response.body", "body": body, "more_body": True}


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


async def _first_page(subscription: Subscription, *, wait: float, limit: int) -> bytes:
    """A page as REST gives it, as soon as there is an event, or empty after ``wait`` seconds."""
    items: list[bytes] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait):
            async for frame in subscription.frames():
                if frame.reset_to is not None:
                    break  # the page's ``epoch`` and ``last_seq`` say it
                if isinstance(frame, EventFrame):
                    items.append(frame.json())
                    if len(items) >= limit or not subscription.is_behind:
                        break
    feed = subscription.feed
    end = f'],"last_seq":{feed.seq},"epoch":{feed.epoch}}}'
    return b'{"items":[' + b",".join(items) + end.encode()


def cursor_of(last_event_id: str) -> tuple[int, int] | None:
    """Epoch and seq of an id that a stream gave, or None for any other text."""
    epoch, _, seq = last_event_id.partition("-")
    if not all(part.isascii() and part.isdigit() and len(part) <= 18 for part in (epoch, seq)):
        return None
    return int(epoch), int(seq)
