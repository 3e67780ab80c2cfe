"""URL patterns of the conversations API, below ``/api/v1/``."""

from conversations.api.v1.conversations import ConversationViewSet
from conversations.api.v1.egress import EgressViewSet, HostRuleViewSet
from conversations.api.v1.egress_decisions import (
    ConversationDecisionViewSet,
    EgressDecisionViewSet,
)
from conversations.api.v1.egress_policy import EgressPolicyViewSet
from conversations.api.v1.events import EventViewSet
from conversations.api.v1.feedback import EventFeedbackViewSet, FeedbackViewSet
from conversations.api.v1.messages import MessageViewSet
from conversations.api.v1.sandboxes import SandboxViewSet
from conversations.api.v1.shared import SharedViewSet
from conversations.api.v1.shares import ShareViewSet
from conversations.api.v1.turns import TurnViewSet
from conversations.api.v1.workspaces import FileContentViewSet, WorkspaceViewSet
from lib.routers import Router, SingletonRouter

ONE = "conversations/<uuid:pk>"
"""The URL of one conversation."""
# Django tries URL patterns in this order. Clients poll the events most often, so their pattern comes first.
router = Router()
router.register(f"{ONE}/events", EventViewSet, basename="event")
router.register("conversations", ConversationViewSet, basename="conversation")
router.register(f"{ONE}/feedback", FeedbackViewSet, basename="feedback")
router.register(f"{ONE}/shares", ShareViewSet, basename="share")
router.register(f"{ONE}/turns", TurnViewSet, basename="turn")
router.register(f"{ONE}/messages", MessageViewSet, basename="message")
router.register(f"{ONE}/egress/rules", HostRuleViewSet, basename="host-rule")
router.register(
    f"{ONE}/egress/decisions", ConversationDecisionViewSet, basename="conversation-egress-decision"
)
router.register("egress-decisions", EgressDecisionViewSet, basename="egress-decision")
router.register(ONE, WorkspaceViewSet, basename="workspace")
singletons = SingletonRouter()
singletons.register(f"{ONE}/sandbox", SandboxViewSet, basename="sandbox")
singletons.register(f"{ONE}/egress", EgressViewSet, basename="egress")
singletons.register("egress-policy", EgressPolicyViewSet, basename="egress-policy")
singletons.register(f"{ONE}/files/content", FileContentViewSet, basename="conversation-read-file")
singletons.register(f"{ONE}/events/<int:seq>/feedback", EventFeedbackViewSet, basename="feedback")
singletons.register("shared/<str:token>", SharedViewSet, basename="shared")
urlpatterns = [*router.urls, *singletons.urls]
