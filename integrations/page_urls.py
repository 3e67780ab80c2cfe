"""Addresses of the pages of Git hosts, and of this server's MCP tools."""

from django.urls import path

from integrations import pages
from integrations.mcp.views import McpAliasView, McpView

urlpatterns = [
    path("settings/git-hosts", pages.git_hosts, name="git-hosts"),
    path("mcp", McpView.as_view(), name="mcp"),
    path("mcp/mcp", McpAliasView.as_view(), name="mcp-compat"),
]
