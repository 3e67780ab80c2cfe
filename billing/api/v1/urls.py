"""Addresses of the billing API, below ``/api/v1/``."""

from django.urls import path

from billing.api.v1 import views
from billing.compat import me

urlpatterns = [
    path("users/me", me.WholeMeView.as_view(), name="me"),
    path("options/models", views.ModelsView.as_view(), name="options-models"),
    path("settings/model-access", views.ModelAccessView.as_view(), name="model-access"),
    path(
        "settings/model-access/test", views.ModelAccessTestView.as_view(), name="model-access-test"
    ),
]
