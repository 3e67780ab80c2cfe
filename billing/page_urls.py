"""Addresses of the pages of billing."""

from django.urls import include, path

from billing import pages

urlpatterns = [
    path("", include("billing.compat.urls")),
    path("settings/model", pages.model_settings, name="settings-model"),
]
