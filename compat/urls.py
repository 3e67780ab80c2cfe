"""The URL patterns of all OpenHands protocols."""

from django.urls import include, path

from compat.settings.urls import api_v1 as me
from compat.v1.urls import urlpatterns as v1

api_v1 = [*me, *v1]
"""The URL patterns below ``/api/v1``. ``openhands_site.urls`` includes them together with the canonical API."""
urlpatterns = [
    path("", include("compat.v0.urls")),
    path("", include("compat.accounts.urls")),
    path("", include("compat.settings.urls")),
    path("", include("compat.engine.urls")),
    path("", include("compat.git_hosts.urls")),
]
