"""The HTTP API of the agent engine, the program that runs an agent in a sandbox.

This server implements the API, so clients never connect to a sandbox. Some paths exist both here and in V0, OpenHands'
older protocol. The V0 views of these paths call ``is_engine_request`` and pass requests of the engine's clients to the
views of this package.
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
