"""The gate before every socket: where it was opened from."""

from collections.abc import Awaitable, Callable
from typing import Any

from django.conf import settings

Scope = dict[str, Any]
App = Callable[[Scope, Callable, Callable], Awaitable[None]]


class OriginGate:
    """Refuses (403) a socket whose ``Origin`` is not exactly ours: scheme, host and port.

    Browsers always send one; a program that sends none must bring an API key, not a cookie.
    """

    def __init__(self, application: App) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Callable, send: Callable) -> None:
        headers = dict(scope["headers"])
        origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
        if not origins:
            is_allowed = b"authorization" in headers or b"x-api-key" in headers
        else:
            is_allowed = len(origins) == 1 and origins[0] in settings.ALLOWED_ORIGINS
        if is_allowed:
            await self.application(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.close", "code": 4403})
