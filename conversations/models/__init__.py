"""The models of conversations: logs, sandboxes, network rules, leases, messages, links, feedback and search texts."""

from conversations.models.append import NewEvent
from conversations.models.conversation import Conversation, ConversationQuerySet
from conversations.models.egress import EgressDecision, EgressPolicy, HostRule
from conversations.models.event import Event, EventQuerySet, LoggedEvent
from conversations.models.feedback import Feedback
from conversations.models.leases import Lease, LiveManager
from conversations.models.messages import OPEN_MESSAGES, OutgoingMessage
from conversations.models.sandbox import Sandbox, SandboxQuerySet, StartTask
from conversations.models.search import SearchProgress, SearchText
from conversations.models.sharing import ShareLink, ShareView

__all__ = [
    "OPEN_MESSAGES",
    "Conversation",
    "ConversationQuerySet",
    "EgressDecision",
    "EgressPolicy",
    "Event",
    "EventQuerySet",
    "Feedback",
    "HostRule",
    "Lease",
    "LiveManager",
    "LoggedEvent",
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
