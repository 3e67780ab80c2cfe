"""The URL patterns of WebSockets, and the HTTP routes whose response stays open (held), such as event streams."""

from typing import Any

from channels.routing import URLRouter
from django.urls import path

from compat.v1.sockets import V1EventsConsumer
from conversations.realtime.socket import ConversationConsumer
from lib.routes import url_pattern


async def refuse_unknown_path(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Refuse the handshake of a socket whose path no pattern matches, with 404 if the server can respond so.

    Channels would raise an exception, so that anybody could write tracebacks into the log.
    """
    await receive()
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 4404})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "websocket.http.response.start", "status": 404, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": b"There is no socket at this URL."})


websocket_urlpatterns = [
    path("ws/v1/conversations/<uuid:conversation_id>", ConversationConsumer.as_asgi()),
    path("sockets/events/<str:conversation_id>", V1EventsConsumer.as_asgi()),
]


class SocketRouter(URLRouter):  # type: ignore[misc]  # Channels has no types
    """Channels' router of sockets, which refuses a path that no pattern matches instead of raising an exception."""

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Any:
        path = scope["path"].lstrip("/")
        if not any(route.pattern.match(path) for route in self.routes):
            return await refuse_unknown_path(scope, receive, send)
        return await super().__call__(scope, receive, send)


held = url_pattern(lambda facts: facts.held == "always")
"""The HTTP routes whose response always stays open. The load balancer must send them to ``realtime`` processes."""
held_with_wait = url_pattern(lambda facts: facts.held == "wait")
"""The HTTP routes whose response stays open if the query string has ``wait=``. They also belong to ``realtime``."""


def is_held(path: str, query: bytes) -> bool:
    """Return whether the response may stay open. Such a request must pass through ``held.HeldResponses``."""
    return bool(held.fullmatch(path) or (b"wait=" in query and held_with_wait.fullmatch(path)))
