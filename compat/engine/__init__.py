"""The engine's own API at a conversation's address. This server implements it, so clients never reach a sandbox.

Some addresses also belong to the V0 protocol. The V0 views call ``is_engine_request`` and pass such requests on.
"""

from compat.engine.views import (
    EngineConversationsView,
    EngineConversationView,
    EngineEventsView,
    is_engine_request,
)

__all__ = [
    "EngineConversationView",
    "EngineConversationsView",
    "EngineEventsView",
    "is_engine_request",
]
