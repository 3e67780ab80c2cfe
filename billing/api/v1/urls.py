"""Addresses of the billing API, below ``/api/v1/``."""

from django.urls import path

from billing.api.v1 import views

urlpatterns = [
    path("options/models", views.ModelsView.as_view(), name="options-models"),
    path("settings/model-access", views.ModelAccessView.as_view(), name="model-access"),
    path(
        "settings/model-access/test", views.ModelAccessTestView.as_view(), name="model-access-test"
    ),
]
