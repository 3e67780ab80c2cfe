"""What conversations are made of: the log and its sandbox, and what people add to it."""

from conversations.models.log import (
    OPEN_MESSAGES,
    Conversation,
    ConversationQuerySet,
    Event,
    EventQuerySet,
    Lease,
    NewEvent,
    OutgoingMessage,
    Sandbox,
    SandboxQuerySet,
    StartTask,
)
from conversations.models.managers import LiveManager
from conversations.models.people import Feedback, SearchProgress, SearchText, ShareLink, ShareView

__all__ = [
    "OPEN_MESSAGES",
    "Conversation",
    "ConversationQuerySet",
    "Event",
    "EventQuerySet",
    "Feedback",
    "Lease",
    "LiveManager",
    "NewEvent",
    "OutgoingMessage",
    "Sandbox",
    "SandboxQuerySet",
    "SearchProgress",
    "SearchText",
    "ShareLink",
    "ShareView",
    "StartTask",
]
