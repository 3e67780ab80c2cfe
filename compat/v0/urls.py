"""URL patterns of V0, OpenHands' older protocol, whose paths contain no version."""

from uuid import UUID

from django.urls import path, register_converter

from compat.v0 import feedback, files, views


class HexId:
    """A path converter for UUIDs with or without dashes, because existing clients send both."""

    regex = "[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"

    def to_python(self, value: str) -> UUID:
        return UUID(value)

    def to_url(self, value: UUID) -> str:
        return value.hex


register_converter(HexId, "hexid")
BASE = "api/conversations"
DETAIL = f"{BASE}/<hexid:pk>"
DETAIL_VIEWS = {
    "start": views.StartView,
    "stop": views.StopView,
    "message": views.MessageView,
    "events": views.EventsView,
    "trajectory": views.TrajectoryView,
    "remember-prompt": views.RememberPromptView,
    "exp-config": views.ExperimentView,
    "config": views.ConfigView,
    "vscode-url": views.VSCodeView,
    "web-hosts": views.WebHostsView,
    "microagents": views.MicroagentsView,
    "list-files": files.ListFilesView,
    "select-file": files.SelectFileView,
    "zip-directory": files.ZipView,
    "git/changes": files.GitChangesView,
    "git/diff": files.GitDiffView,
    "upload-files": files.UploadFilesView,
    "submit-feedback": feedback.SubmitFeedbackView,
}
urlpatterns = [
    path(BASE, views.ConversationsView.as_view(), name="v0-conversations"),
    path(DETAIL, views.ConversationView.as_view(), name="v0-conversation"),
    *(
        path(f"{DETAIL}/{name}", view.as_view(), name=f"v0-{name.replace('/', '-')}")
        for name, view in DETAIL_VIEWS.items()
    ),
    path(
        "api/microagent-management/conversations",
        views.MicroagentConversationsView.as_view(),
        name="v0-microagent-conversations",
    ),
    path("feedback/conversation", feedback.FeedbackView.as_view(), name="v0-feedback"),
    path(
        "feedback/conversation/<hexid:pk>/batch",
        feedback.FeedbackBatchView.as_view(),
        name="v0-feedback-batch",
    ),
]
