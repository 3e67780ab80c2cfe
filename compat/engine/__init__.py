"""The engine's own API, as its clients call it on a conversation's host: here, that is us.

Some addresses mean something else in the V0 protocol. Those views ask ``speaks_engine`` and hand over.
"""

from compat.engine.views import (
    EngineConversationsView,
    EngineConversationView,
    EngineEventsView,
    speaks_engine,
)

__all__ = [
    "EngineConversationView",
    "EngineConversationsView",
    "EngineEventsView",
    "speaks_engine",
]
