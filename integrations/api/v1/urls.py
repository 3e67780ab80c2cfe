"""URL patterns of the API of Git hosts, below ``/api/v1/``."""

from integrations.api.v1.provider_tokens import ProviderTokenViewSet
from integrations.api.v1.providers import ProviderViewSet
from lib.routers import Router

router = Router()
router.register("provider-tokens", ProviderTokenViewSet, basename="provider-token")
router.register("integrations", ProviderViewSet, basename="git")
urlpatterns = router.urls
