"""REST addresses of conversations."""

from rest_framework.routers import SimpleRouter

from conversations.api.v1.views import ConversationViewSet

router = SimpleRouter(trailing_slash=False, use_regex_path=False)
router.register("conversations", ConversationViewSet, basename="conversation")
urlpatterns = router.urls
