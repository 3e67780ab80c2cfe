"""Addresses of the pages of billing."""

from django.urls import path

from billing import pages

urlpatterns = [
    path("settings/model", pages.model_settings, name="settings-model"),
]
