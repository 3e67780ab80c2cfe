"""Addresses of the pages of Git hosts, and of the routes that existing clients know."""

from django.urls import include, path

urlpatterns = [
    path("", include("integrations.compat.urls")),
]
