"""The check of the ``Origin`` header of every WebSocket handshake."""

import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from django.conf import settings

Scope = dict[str, Any]
KEY_IN_FRAME = "/sockets/"
"""The path prefix of sockets whose client may send its key in the first frame."""
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Coroutine[Any, Any, None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
_KEYS = (b"authorization", b"x-api-key", b"x-session-api-key")
_KEY_IN_QUERY = re.compile(rb"(?:\A|&)session_api_key=(?!null(?:&|\Z))[^&]")


class OriginCheck:
    """ASGI middleware that refuses (403) a socket whose ``Origin`` is not one of ``ALLOWED_ORIGINS``.

    Browsers always send an ``Origin``. A handshake without an ``Origin`` needs an API key, and its cookie is ignored.
    Below ``/sockets/`` the key may follow in the first frame.
    """

    def __init__(self, application: App) -> None:
        self.application = application

    # A plain function: the frame of a coroutine would be kept as long as a socket is open.
    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
        if not origins:
            is_allowed = (
                any(name in _KEYS for name, _ in scope["headers"])
                or _KEY_IN_QUERY.search(scope.get("query_string", b""))
                or scope["path"].startswith(KEY_IN_FRAME)
            )
            without_cookie = [pair for pair in scope["headers"] if pair[0] != b"cookie"]
            scope["headers"] = without_cookie
        else:
            is_allowed = len(origins) == 1 and origins[0] in settings.ALLOWED_ORIGINS
        return self.application(scope, receive, send) if is_allowed else _refuse(receive, send)


async def _refuse(receive: Receive, send: Send) -> None:
    # Closing a socket before it is accepted makes the server respond with HTTP 403.
    await receive()
    await send({"type": "websocket.close", "code": 4403})
