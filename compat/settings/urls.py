"""URL patterns of the settings routes that existing clients call. The patterns of ``api_v1`` are below ``/api/v1``."""

from django.urls import path

from compat.settings import me, settings

api_v1 = [path("users/me", me.WholeMeView.as_view(), name="me")]
urlpatterns = [
    path("api/settings", settings.CompatSettingsView.as_view(), name="compat-settings"),
    path("api/reset-settings", settings.CompatResetView.as_view(), name="compat-reset-settings"),
    path("api/options/models", settings.CompatModelsView.as_view(), name="compat-models"),
]
