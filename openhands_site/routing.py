"""The URL patterns of WebSockets, and the HTTP routes whose response stays open (held), such as event streams."""

from collections.abc import Awaitable
from typing import Any

from django.urls import path, re_path

from compat.v1.sockets import V1EventsConsumer
from conversations.realtime.socket import ConversationConsumer
from lib.api import dumps
from lib.problems import problem_body
from lib.routes import url_pattern
from openhands_site.middleware.headers import HANDSHAKE_HEADERS

CLOSE_NOT_FOUND = 4404
NO_SOCKET = "There is no WebSocket at this URL. The documentation lists the URLs of sockets."


async def refuse_unknown(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Refuse the handshake of a socket whose path has no route: 404, or a close if the server can only close.

    Without this route, Channels raises an exception, and the response is 500.
    """
    await receive()  # the handshake
    if "websocket.http.response" not in scope.get("extensions", ()):
        await send({"type": "websocket.close", "code": CLOSE_NOT_FOUND})
        return
    body = dumps(problem_body(status=404, code="not-found", detail=NO_SOCKET))
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        *HANDSHAKE_HEADERS,
    ]
    await send({"type": "websocket.http.response.start", "status": 404, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


UNKNOWN: Any = refuse_unknown
"""As ``Any``, because Django's types know only views."""
websocket_urlpatterns = [
    path("ws/v1/conversations/<uuid:conversation_id>", ConversationConsumer.as_asgi()),
    path("sockets/events/<str:conversation_id>", V1EventsConsumer.as_asgi()),
    re_path(r"", UNKNOWN),
]


def route_socket(scope: dict[str, Any], receive: Any, send: Any) -> Awaitable[None]:
    """Pass a socket to the application of its path, with the arguments in ``scope["url_route"]``.

    As Channels' ``URLRouter``, but without a coroutine and a copy of the scope, which would be kept as long as the
    socket is open.
    """
    path = scope["path"].removeprefix("/")
    for pattern in websocket_urlpatterns:
        if match := pattern.resolve(path):
            scope["url_route"] = {"args": match.args, "kwargs": match.kwargs}
            result: Awaitable[None] = match.func(scope, receive, send)
            return result
    raise AssertionError("the last pattern matches every path")


held = url_pattern(lambda facts: facts.held == "always")
"""The HTTP routes whose response always stays open. The load balancer must send them to ``realtime`` processes."""
held_with_wait = url_pattern(lambda facts: facts.held == "wait")
"""The HTTP routes whose response stays open if the query string has ``wait=``. They also belong to ``realtime``."""


def is_held(path: str, query: bytes) -> bool:
    """Return whether the response may stay open. Such a request must pass through ``held.HeldResponses``."""
    return bool(held.fullmatch(path) or (b"wait=" in query and held_with_wait.fullmatch(path)))
