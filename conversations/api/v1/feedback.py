"""API endpoints for feedback: a user's ratings of single events."""

from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema, extend_schema_serializer
from rest_framework import serializers, viewsets
from rest_framework.response import Response

from accounts.requests import ApiRequest
from conversations import services
from conversations.api.v1.mixins import NestedMixin

METADATA_LENGTH = 4_000


class NewFeedbackSerializer(serializers.Serializer[Any]):
    """A rating of an event. It replaces your earlier rating of the event."""

    rating = serializers.IntegerField(min_value=1, max_value=5)
    reason = serializers.CharField(required=False, allow_blank=True, max_length=4_000, default="")
    metadata = serializers.DictField(
        required=False,
        default=dict,
        help_text="Any data of your client. It is stored and returned with the rating. At most 4,000 characters.",
    )

    def validate_metadata(self, value: dict[str, Any]) -> dict[str, Any]:
        text = str(value)
        if len(text) > METADATA_LENGTH:
            raise serializers.ValidationError("Shorten the data to at most 4,000 characters.")
        # PostgreSQL's JSON stores neither NUL nor half a surrogate pair.
        if "\\x00" in repr(text) or any("\ud800" <= c <= "\udfff" for c in text):
            raise serializers.ValidationError(
                "The text contains a NUL character or half a surrogate pair. Remove it."
            )
        return value


class FeedbackSerializer(serializers.Serializer[Any]):
    """Your feedback on an event. The rating is null if you did not rate the event."""

    seq = serializers.IntegerField()
    rating = serializers.IntegerField(allow_null=True)
    reason = serializers.CharField(allow_blank=True)
    metadata = serializers.DictField()
    created_at = serializers.DateTimeField(allow_null=True)
    updated_at = serializers.DateTimeField(allow_null=True)


@extend_schema_serializer(many=False)
class FeedbackListSerializer(serializers.Serializer[Any]):
    items = FeedbackSerializer(many=True)


class FeedbackViewSet(NestedMixin, viewsets.ViewSet):
    """The caller's feedback on all events of a conversation."""

    permission = "conversations.view"

    @extend_schema(operation_id="conversations_feedback_list", responses=FeedbackListSerializer)
    def list(self, request: ApiRequest, pk: UUID) -> Response:
        """List your feedback on this conversation's events, in the order of the log."""
        rows = services.list_feedback(user=request.user, conversation=self.get_conversation())
        return Response({"items": FeedbackSerializer(rows, many=True).data})


class EventFeedbackViewSet(NestedMixin, viewsets.ViewSet):
    """The caller's feedback on one event."""

    permission = "conversations.view"

    @extend_schema(operation_id="conversations_feedback", responses=FeedbackSerializer)
    def retrieve(self, request: ApiRequest, pk: UUID, seq: int) -> Response:
        """Return your feedback on an event. The rating is null if you did not rate the event."""
        conversation = self.get_conversation()
        rows = services.list_feedback(user=request.user, conversation=conversation, seq=seq)
        empty: dict[str, Any] = {"seq": seq, "rating": None, "reason": "", "metadata": {}}
        empty |= {"created_at": None, "updated_at": None}
        return Response(FeedbackSerializer(rows[0] if rows else empty).data)

    @extend_schema(
        operation_id="conversations_feedback_give",
        request=NewFeedbackSerializer,
        responses=FeedbackSerializer,
    )
    def update(self, request: ApiRequest, pk: UUID, seq: int) -> Response:
        """Rate an event from 1 to 5. The rating replaces your earlier rating of the event."""
        conversation = self.get_conversation()
        body = self.validate_body(NewFeedbackSerializer)
        feedback = services.save_feedback(
            user=request.user, conversation=conversation, seq=seq, **body
        )
        return Response(FeedbackSerializer(feedback).data)

    @extend_schema(operation_id="conversations_feedback_take_back", responses={204: None})
    def destroy(self, request: ApiRequest, pk: UUID, seq: int) -> Response:
        """Delete your feedback on an event. Repeating the request is safe."""
        conversation = self.get_conversation()
        services.delete_feedback(user=request.user, conversation=conversation, seq=seq)
        return Response(status=204)
