"""Socket addresses."""

from django.urls import path

from conversations.compat.v1.sockets import V1EventsConsumer
from conversations.consumers import ConversationConsumer

websocket_urlpatterns = [
    path("ws/v1/conversations/<uuid:conversation_id>", ConversationConsumer.as_asgi()),
    path("sockets/events/<str:conversation_id>", V1EventsConsumer.as_asgi()),
]
