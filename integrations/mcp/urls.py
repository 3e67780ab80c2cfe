"""URL patterns of the MCP endpoint."""

from django.urls import path

from integrations.mcp.views import McpAliasView, McpView

urlpatterns = [
    path("mcp", McpView.as_view(), name="mcp"),
    path("mcp/mcp", McpAliasView.as_view(), name="mcp-compat"),
]
