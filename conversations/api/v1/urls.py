"""REST addresses of conversations."""

from django.urls import path
from rest_framework.routers import SimpleRouter

from conversations.api.v1 import parts
from conversations.api.v1.views import ConversationViewSet

ONE = "conversations/<uuid:pk>"
router = SimpleRouter(trailing_slash=False, use_regex_path=False)
router.register("conversations", ConversationViewSet, basename="conversation")
urlpatterns = [
    *router.urls,
    path(f"{ONE}/trajectory", parts.TrajectoryView.as_view(), name="trajectory"),
    path(f"{ONE}/feedback", parts.FeedbackListView.as_view(), name="feedback-list"),
    path(f"{ONE}/events/<int:seq>/feedback", parts.FeedbackView.as_view(), name="feedback"),
    path(f"{ONE}/shares", parts.SharesView.as_view(), name="share-list"),
    path(f"{ONE}/shares/<uuid:share_id>", parts.ShareView.as_view(), name="share"),
    path(f"{ONE}/shares/<uuid:share_id>/views", parts.ShareViewsView.as_view(), name="share-views"),
    path(f"{ONE}/fork", parts.ForkView.as_view(), name="fork"),
    path(f"{ONE}/turns", parts.TurnsView.as_view(), name="turn-list"),
    path(f"{ONE}/turns/<int:number>/diff", parts.TurnDiffView.as_view(), name="turn-diff"),
    path("shared/<str:token>", parts.SharedView.as_view(), name="shared"),
    path("shared/<str:token>/events", parts.SharedEventsView.as_view(), name="shared-events"),
]
