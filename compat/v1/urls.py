"""URL patterns of V1, OpenHands' newer protocol, below ``/api/v1``."""

from django.urls import path

from compat.v1 import app_conversations, events, sandboxes, webhooks

APP = "app-conversations"
urlpatterns = [
    path(APP, app_conversations.AppConversationsView.as_view(), name="app-conversation-list"),
    path(f"{APP}/search", app_conversations.AppConversationSearchView.as_view()),
    path(f"{APP}/count", app_conversations.AppConversationCountView.as_view()),
    path(
        f"{APP}/stream-start",
        app_conversations.StreamStartView.as_view(),
        name="app-conversation-stream-start",
    ),
    path(f"{APP}/start-tasks", app_conversations.StartTasksView.as_view()),
    path(f"{APP}/start-tasks/search", app_conversations.StartTaskSearchView.as_view()),
    path(f"{APP}/start-tasks/count", app_conversations.StartTaskCountView.as_view()),
    path("sandboxes", sandboxes.SandboxesView.as_view(), name="sandbox-list"),
    path("sandboxes/search", sandboxes.SandboxSearchView.as_view()),
    path("sandboxes/<str:pk>", sandboxes.SandboxView.as_view()),
    path("sandboxes/<str:pk>/pause", sandboxes.SandboxPauseView.as_view()),
    path("sandboxes/<str:pk>/resume", sandboxes.SandboxResumeView.as_view()),
    path("sandbox-specs", sandboxes.SandboxSpecsView.as_view()),
    path("sandbox-specs/search", sandboxes.SandboxSpecSearchView.as_view()),
    path("events", events.EventsView.as_view()),
    path("events/search", events.EventSearchView.as_view()),
    path("events/count", events.EventCountView.as_view()),
    path("webhooks/<str:sandbox_id>/conversations", webhooks.ConversationsWebhook.as_view()),
    path(
        "webhooks/<str:sandbox_id>/events/<str:conversation_id>", webhooks.EventsWebhook.as_view()
    ),
]
