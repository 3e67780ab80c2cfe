"""URL patterns of the billing API, below ``/api/v1/``."""

from django.urls import path

from billing.api.v1 import views
from billing.api.v1.model_access import ModelAccessViewSet, OrganizationModelViewSet
from billing.api.v1.model_calls import ModelCallViewSet
from billing.api.v1.usage import UsageViewSet
from lib.routers import Router, SingletonRouter

singletons = SingletonRouter()
singletons.register("settings/model-access", ModelAccessViewSet, basename="model-access")
singletons.register(
    "organizations/<uuid:pk>/model-access", OrganizationModelViewSet, basename="organization-model"
)
router = Router()
router.register("model-calls", ModelCallViewSet, basename="model-call")
router.register("usage", UsageViewSet, basename="usage")

urlpatterns = [
    path("options/models", views.ModelsView.as_view(), name="options-models"),
    *singletons.urls,
    *router.urls,
]
