"""Addresses that existing clients know."""

from django.urls import path

from billing.compat import settings

urlpatterns = [
    path("api/settings", settings.CompatSettingsView.as_view(), name="compat-settings"),
    path("api/reset-settings", settings.CompatResetView.as_view(), name="compat-reset-settings"),
    path("api/options/models", settings.CompatModelsView.as_view(), name="compat-models"),
]
