"""Socket addresses."""

import re

from django.urls import path

from compat.v1.sockets import V1EventsConsumer
from conversations.realtime.socket import ConversationConsumer

websocket_urlpatterns = [
    path("ws/v1/conversations/<uuid:conversation_id>", ConversationConsumer.as_asgi()),
    path("sockets/events/<str:conversation_id>", V1EventsConsumer.as_asgi()),
]

STREAMING_PATHS = (
    r"/api/v1/conversations/[^/]+/events/stream$",
    r"/api/v1/conversations/[^/]+/events$",  # with ``wait=`` in the query
)
"""Plain HTTP that is held open, for the balancer: it belongs to ``realtime`` processes."""
_held = re.compile(STREAMING_PATHS[0])
_may_be_held = re.compile(STREAMING_PATHS[1])


def is_held(path: str, query: bytes) -> bool:
    """Whether a request may be held open, and so must come through ``held.Held``."""
    return bool(_held.match(path) or (b"wait=" in query and _may_be_held.match(path)))
