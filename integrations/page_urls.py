"""Addresses of the pages of Git hosts, and of the routes that existing clients know."""

from django.urls import include, path

from integrations import pages
from integrations.mcp.views import McpAliasView, McpView

urlpatterns = [
    path("", include("integrations.compat.urls")),
    path("settings/git-hosts", pages.git_hosts, name="git-hosts"),
    path("mcp", McpView.as_view(), name="mcp"),
    path("mcp/mcp", McpAliasView.as_view(), name="mcp-compat"),
]
