"""Socket addresses."""

from django.urls import path

from compat.v1.sockets import V1EventsConsumer
from conversations.realtime.socket import ConversationConsumer
from lib.routes import addresses

websocket_urlpatterns = [
    path("ws/v1/conversations/<uuid:conversation_id>", ConversationConsumer.as_asgi()),
    path("sockets/events/<str:conversation_id>", V1EventsConsumer.as_asgi()),
]

held = addresses(lambda facts: facts.held == "always")
held_with_wait = addresses(lambda facts: facts.held == "wait")
"""Plain HTTP that is held open, for the balancer: it belongs to ``realtime`` processes."""


def is_held(path: str, query: bytes) -> bool:
    """Whether a request may be held open, and so must come through ``held.HeldResponses``."""
    return bool(held.fullmatch(path) or (b"wait=" in query and held_with_wait.fullmatch(path)))
