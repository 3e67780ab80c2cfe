"""URL patterns of the engine's API on this server."""

import re

from django.urls import path, register_converter
from django.urls.converters import StringConverter

from compat.engine import confirmation, files, unserved, views


class Unserved(StringConverter):
    """The names of the engine's routes below a conversation that are not served."""

    regex = "|".join(map(re.escape, sorted(unserved.CONVERSATION_ROUTES, reverse=True)))


class UnservedBash(StringConverter):
    """The names of the engine's routes below ``/api/bash`` that are not served."""

    regex = "|".join(map(re.escape, unserved.BASH_ROUTES))


register_converter(Unserved, "unserved")
register_converter(UnservedBash, "unserved_bash")
DETAIL = "api/conversations/<str:pk>"
urlpatterns = [
    path(f"{DETAIL}/run", views.RunView.as_view(), name="runtime-run"),
    path(f"{DETAIL}/pause", views.PauseView.as_view()),
    path(f"{DETAIL}/interrupt", views.InterruptView.as_view()),
    path(f"{DETAIL}/events/search", views.EventSearchView.as_view()),
    path(f"{DETAIL}/events/count", views.EventCountView.as_view()),
    path(f"{DETAIL}/events/respond_to_confirmation", views.AnswerView.as_view()),
    path(f"{DETAIL}/confirmation_policy", confirmation.PolicyView.as_view()),
    path(f"{DETAIL}/security_analyzer", confirmation.AnalyzerView.as_view()),
    path(f"{DETAIL}/<unserved:route>", unserved.UnservedView.as_view()),
    path("api/bash/<unserved_bash:route>", unserved.UnservedSandboxView.as_view()),
    path("api/file/upload", files.UploadView.as_view()),
    path("api/file/upload/<path:path>", files.UploadAtPathView.as_view()),
    path("api/file/download", files.DownloadView.as_view()),
    path("api/git/changes", files.ChangesView.as_view()),
    path("api/git/changes/<path:path>", files.ChangesAtPathView.as_view()),
    path("api/git/diff", files.DiffView.as_view()),
    path("api/git/diff/<path:path>", files.DiffAtPathView.as_view()),
]
