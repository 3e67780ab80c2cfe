"""The root URL configuration."""

from django.contrib import admin
from django.urls import include, path

from accounts.api.v1 import urls as accounts_api
from billing.api.v1 import urls as billing_api
from compat import deprecations
from compat import urls as compat
from conversations.api.v1 import urls as conversations_api
from integrations.api.v1 import urls as integrations_api
from openhands_site import openapi, views
from openhands_site.operating import node_views
from openhands_site.setup import pages as setup_pages

# Django tries patterns in order, so the most frequent routes come first.
api_v1 = [
    *conversations_api.urlpatterns,
    *compat.api_v1,
    *billing_api.urlpatterns,
    path("schema", openapi.SchemaView.as_view(), name="schema"),
    path("docs", openapi.DocsView.as_view(), name="docs"),
    *accounts_api.urlpatterns,
    path("nodes", node_views.NodesView.as_view(), name="node-list"),
    *integrations_api.urlpatterns,
]
_patterns = [
    path("api/v1/", include((api_v1, "v1"))),
    path("admin/nodes", admin.site.admin_view(node_views.page), name="nodes"),
    path("admin/", admin.site.urls),
    path("alive", views.alive, name="alive"),
    path("ready", views.ready, name="ready"),
    path("metrics", views.metrics, name="metrics"),
    path("settings/setup", setup_pages.setup, name="setup-checklist"),
    path("api/llm/v1/", include("billing.gateway.urls")),
    path("", include("compat.urls")),
    path("", include("accounts.web.urls")),
    path("", include("billing.web.urls")),
    path("", include("conversations.web.urls")),
    path("", include("integrations.web.urls")),
    path("", include("integrations.mcp.urls")),
]
urlpatterns = deprecations.add_deprecation_headers(_patterns)
handler500 = "openhands_site.middleware.errors.server_error"
