"""The API endpoint that sends messages to the agent."""

from uuid import UUID, uuid4

from drf_spectacular.utils import extend_schema
from rest_framework import viewsets
from rest_framework.response import Response

from accounts.requests import ApiRequest
from conversations import services
from conversations.api.v1 import serializers
from conversations.api.v1.mixins import NestedMixin
from lib.routes import RouteFacts


@RouteFacts(cost="spend")
class MessageViewSet(NestedMixin, viewsets.ViewSet):
    """Messages to a conversation's agent. To read them, request the conversation's events."""

    permission = "conversations.steer"
    url_names = {"create": "conversation-messages"}  # noqa: RUF012 - read by Router

    @extend_schema(
        operation_id="conversations_messages_create",
        request=serializers.MessageSerializer,
        responses={202: serializers.AppendedSerializer},
    )
    def create(self, request: ApiRequest, pk: UUID) -> Response:
        """Send a message to the agent. The message is in the log before the response is sent.

        Repeating a request with the same ``message_id`` returns the first event.
        """
        conversation = self.get_conversation()
        body = self.validate_body(serializers.MessageSerializer)
        event = services.post_message(
            conversation_id=conversation.pk,
            text=body["text"],
            message_id=str(body.get("message_id") or uuid4()),
            images=body.get("images", ()),
            by=request.user,
        )
        return Response({"seq": event.seq, "event_id": event.event_id}, status=202)
