"""Addresses of the pages of Git hosts, and of this server's MCP tools."""

from django.urls import path

from integrations.mcp.views import McpAliasView, McpView
from integrations.web import git_hosts

urlpatterns = [
    path("settings/git-hosts", git_hosts.git_hosts, name="git-hosts"),
    path("mcp", McpView.as_view(), name="mcp"),
    path("mcp/mcp", McpAliasView.as_view(), name="mcp-compat"),
]
