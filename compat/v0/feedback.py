"""V0's feedback about conversations and events.

Feedback is stored in our database and sent to no other server, and only users who may see a conversation can give
feedback. OpenHands' own server uploads the whole conversation to its vendor, and accepts ratings without a sign-in.
"""

from typing import Any
from uuid import UUID

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, inline_serializer
from rest_framework import serializers as fields
from rest_framework.response import Response

from accounts.requests import ApiRequest
from compat.v0 import serializers
from compat.v0.serializers import Unprocessable, validate
from compat.v0.views import VIEW, V0View, schema
from conversations.services.feedback import list_feedback, save_feedback
from lib.routes import RouteFacts

RATINGS = {"positive": 5, "negative": 1}
"""The ratings that this server stores for the two polarities of V0."""


@RouteFacts(replaced_by="/api/v1/conversations/{}/events/{}/feedback")
class SubmitFeedbackView(V0View):
    """Feedback about a whole conversation."""

    permission = VIEW

    @schema(
        "conversation_feedback",
        request=serializers.V0SubmitFeedbackSerializer,
        responses=inline_serializer("V0SubmittedFeedback", {"body": fields.DictField()}),
    )
    def post(self, request: ApiRequest, pk: UUID) -> Response:
        """Store the feedback as a rating of the conversation's newest event."""
        conversation = self.find(pk)
        submitted = validate(serializers.V0SubmitFeedbackSerializer, request.data)
        if not conversation.last_seq:
            raise Unprocessable(
                "This conversation has no events yet. Give feedback after the first message."
            )
        feedback = save_feedback(
            user=request.user,
            conversation=conversation,
            seq=conversation.last_seq,
            rating=RATINGS[submitted["polarity"]],
            reason=submitted.get("feedback") or "",
            metadata={"of": "conversation", "permissions": submitted["permissions"]},
        )
        # The web client reads all three fields. OpenHands' vendor issues the password; here there is none.
        body = {
            "message": "Thanks for your feedback.",
            "feedback_id": str(feedback.pk),
            "password": "",
        }
        return Response({"body": body})


@RouteFacts(replaced_by="/api/v1/conversations/{}/events/{}/feedback")
class FeedbackView(V0View):
    """Feedback about one event."""

    permission = VIEW

    @schema(
        "feedback_give",
        request=serializers.V0FeedbackSerializer,
        responses={
            201: inline_serializer(
                "V0RatedEvent", {"status": fields.CharField(), "message": fields.CharField()}
            ),
            404: OpenApiResponse(description="The conversation or event does not exist."),
        },
    )
    def post(self, request: ApiRequest) -> Response:
        """Store a rating from 1 to 5, replacing the caller's earlier rating of the event."""
        submitted = validate(serializers.V0FeedbackSerializer, request.data)
        conversation = self.find(submitted["conversation_id"])
        save_feedback(
            user=request.user,
            conversation=conversation,
            seq=submitted.get("event_id") or conversation.last_seq,
            rating=submitted["rating"],
            reason=submitted.get("reason") or "",
            metadata=submitted.get("metadata") or {},
        )
        return Response({"status": "success", "message": "Thanks for your feedback."}, status=201)


@RouteFacts(replaced_by="/api/v1/conversations/{}/feedback")
class FeedbackBatchView(V0View):
    """The caller's ratings of a conversation's events."""

    permission = VIEW

    @schema("feedback_batch", responses=OpenApiTypes.OBJECT)
    def get(self, request: ApiRequest, pk: UUID) -> Response:
        """Return an object from event id to the caller's rating: `{exists, rating, reason}`.

        An event of the agent that has no rating has `{exists: false}`.
        """
        conversation = self.find(pk)
        rows = conversation.events.filter(source="agent").values_list("seq", flat=True)
        ratings: dict[str, Any] = {str(seq): {"exists": False} for seq in rows}
        for row in list_feedback(user=request.user, conversation=conversation):
            ratings[str(row.seq)] = {"exists": True, "rating": row.rating, "reason": row.reason}
        return Response(ratings)
