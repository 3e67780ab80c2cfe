"""The URL patterns of WebSockets, and the HTTP routes whose response stays open (held), such as event streams."""

from django.urls import path

from compat.v1.sockets import V1EventsConsumer
from conversations.realtime.socket import ConversationConsumer
from lib.routes import url_pattern

websocket_urlpatterns = [
    path("ws/v1/conversations/<uuid:conversation_id>", ConversationConsumer.as_asgi()),
    path("sockets/events/<str:conversation_id>", V1EventsConsumer.as_asgi()),
]

held = url_pattern(lambda facts: facts.held == "always")
"""The HTTP routes whose response always stays open. The load balancer must send them to ``realtime`` processes."""
held_with_wait = url_pattern(lambda facts: facts.held == "wait")
"""The HTTP routes whose response stays open if the query string has ``wait=``. They also belong to ``realtime``."""


def is_held(path: str, query: bytes) -> bool:
    """Return whether the response may stay open. Such a request must pass through ``held.HeldResponses``."""
    return bool(held.fullmatch(path) or (b"wait=" in query and held_with_wait.fullmatch(path)))
