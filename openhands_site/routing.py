"""Routes of WebSockets, and the HTTP routes that are held open."""

from django.urls import path

from compat.v1.sockets import V1EventsConsumer
from conversations.realtime.socket import ConversationConsumer
from lib.routes import url_pattern

websocket_urlpatterns = [
    path("ws/v1/conversations/<uuid:conversation_id>", ConversationConsumer.as_asgi()),
    path("sockets/events/<str:conversation_id>", V1EventsConsumer.as_asgi()),
]

held = url_pattern(lambda facts: facts.held == "always")
"""HTTP routes that are always held open. The load balancer must send them to ``realtime`` processes."""
held_with_wait = url_pattern(lambda facts: facts.held == "wait")
"""HTTP routes that are held open if the query contains ``wait=``. They also belong to ``realtime``."""


def is_held(path: str, query: bytes) -> bool:
    """Return whether a request may be held open and must therefore pass through ``held.HeldResponses``."""
    return bool(held.fullmatch(path) or (b"wait=" in query and held_with_wait.fullmatch(path)))
