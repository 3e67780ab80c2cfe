"""Addresses of the engine's API on our own origin."""

from django.urls import path

from compat.engine import files, views

ONE = "api/conversations/<str:pk>"
urlpatterns = [
    path(f"{ONE}/run", views.RunView.as_view(), name="runtime-run"),
    path(f"{ONE}/pause", views.PauseView.as_view()),
    path(f"{ONE}/interrupt", views.InterruptView.as_view()),
    path(f"{ONE}/events/search", views.EventSearchView.as_view()),
    path(f"{ONE}/events/count", views.EventCountView.as_view()),
    path(f"{ONE}/events/respond_to_confirmation", views.AnswerView.as_view()),
    path("api/file/upload", files.UploadView.as_view()),
    path("api/file/upload/<path:path>", files.UploadToView.as_view()),
    path("api/file/download", files.DownloadView.as_view()),
    path("api/git/changes", files.ChangesView.as_view()),
    path("api/git/changes/<path:path>", files.ChangesOfView.as_view()),
    path("api/git/diff", files.DiffView.as_view()),
    path("api/git/diff/<path:path>", files.DiffOfView.as_view()),
]
