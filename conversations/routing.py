"""Socket addresses."""

from django.urls import path

from conversations.consumers import ConversationConsumer

websocket_urlpatterns = [
    path("ws/v1/conversations/<uuid:conversation_id>", ConversationConsumer.as_asgi()),
]
