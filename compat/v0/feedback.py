"""What people think of a conversation and its events: kept here, and never sent anywhere.

The peer posts whole trajectories to an address of its vendor, and takes ratings from anybody. Neither is done here.
"""

from typing import Any
from uuid import UUID

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, inline_serializer
from rest_framework import serializers as fields
from rest_framework.response import Response

from accounts.requests import ApiRequest
from compat.v0 import serializers
from compat.v0.serializers import Unprocessable, checked
from compat.v0.views import VIEW, V0View, schema
from conversations.services.feedback import list_feedback, save_feedback
from lib.routes import RouteFacts

RATINGS = {"positive": 5, "negative": 1}


@RouteFacts(replaced_by="/api/v1/conversations/{}/events/{}/feedback")
class SubmitFeedbackView(V0View):
    """What somebody thinks of a whole conversation."""

    permission = VIEW

    @schema(
        "conversation_feedback",
        request=serializers.V0SubmitFeedbackSerializer,
        responses=inline_serializer("V0FeedbackKept", {"body": fields.DictField()}),
    )
    def post(self, request: ApiRequest, pk: UUID) -> Response:
        """Keep it with the conversation, at its newest event."""
        conversation = self.find(pk)
        said = checked(serializers.V0SubmitFeedbackSerializer, request.data)
        if not conversation.last_seq:
            raise Unprocessable("There is nothing in this conversation yet.")
        kept = save_feedback(
            user=request.user,
            conversation=conversation,
            seq=conversation.last_seq,
            rating=RATINGS[said["polarity"]],
            reason=said.get("feedback") or "",
            metadata={"of": "conversation", "permissions": said["permissions"]},
        )
        body = {"message": "Your feedback was kept.", "feedback_id": str(kept.pk), "password": ""}
        return Response({"body": body})


@RouteFacts(replaced_by="/api/v1/conversations/{}/events/{}/feedback")
class FeedbackView(V0View):
    """What somebody thinks of one event."""

    permission = VIEW

    @schema(
        "feedback_give",
        request=serializers.V0FeedbackSerializer,
        responses={
            201: inline_serializer(
                "V0FeedbackGiven", {"status": fields.CharField(), "message": fields.CharField()}
            ),
            404: OpenApiResponse(description="There is no such conversation or event."),
        },
    )
    def post(self, request: ApiRequest) -> Response:
        """A rating from 1 to 5; the newest word of a person counts."""
        said = checked(serializers.V0FeedbackSerializer, request.data)
        conversation = self.find(said["conversation_id"])
        save_feedback(
            user=request.user,
            conversation=conversation,
            seq=said.get("event_id") or conversation.last_seq,
            rating=said["rating"],
            reason=said.get("reason") or "",
            metadata=said.get("metadata") or {},
        )
        return Response({"status": "success", "message": "Your feedback was kept."}, status=201)


@RouteFacts(replaced_by="/api/v1/conversations/{}/feedback")
class FeedbackBatchView(V0View):
    """What the caller said of a conversation's events."""

    permission = VIEW

    @schema("feedback_batch", responses=OpenApiTypes.OBJECT)
    def get(self, request: ApiRequest, pk: UUID) -> Response:
        """By event id: `{exists, rating, reason}`, or `{exists: false}` for the agent's events without a word."""
        conversation = self.find(pk)
        rows = conversation.events.filter(source="agent").values_list("seq", flat=True)
        found: dict[str, Any] = {str(seq): {"exists": False} for seq in rows}
        for one in list_feedback(user=request.user, conversation=conversation):
            said = {"exists": True, "rating": one.rating, "reason": one.reason}
            found[str(one.seq)] = said
        return Response(found)
