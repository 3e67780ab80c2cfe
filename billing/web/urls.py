"""URL patterns of the billing pages."""

from django.urls import path

from billing.web import model_access, model_servers

urlpatterns = [
    path("settings/model/servers", model_servers.model_servers, name="model-servers"),
    path(
        "settings/model/<uuid:organization_id>",
        model_access.organization_model,
        name="organization-model",
    ),
    path("settings/model", model_access.model_settings, name="settings-model"),
]
