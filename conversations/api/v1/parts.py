"""What hangs on a conversation over REST: export, feedback, public links, forks, turns."""

from dataclasses import asdict
from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import StreamingHttpResponse
from django.shortcuts import get_object_or_404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.permissions import PUBLIC
from accounts.permissions import require
from accounts.requests import ApiRequest
from conversations import services
from conversations.api.v1 import part_serializers as shapes
from conversations.api.v1.serializers import ConversationSerializer
from conversations.log import replay
from conversations.log.records import build_record
from conversations.models import Conversation
from conversations.services.exports import FORMATS
from lib.api import parse_query

PRIVATE_HEADERS = {
    "X-Robots-Tag": "noindex, nofollow",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""What answers to public links carry: nobody indexes, keeps or passes them on."""


class PartView(APIView):
    """A view below one conversation, which it finds like the conversation's own views do."""

    def conversation(self, pk: UUID) -> Conversation:
        """The conversation if it exists for this user and the permission is there."""
        rows = Conversation.objects.visible_to(self.request.user)
        found = get_object_or_404(rows.select_related("organization"), pk=pk)
        self.check_object_permissions(self.request, found)
        return found

    def body(self, kind: Any, request: Request) -> dict[str, Any]:
        """The request's body, validated."""
        serializer = kind(data=request.data)
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)


class TrajectoryView(PartView):
    permission = "conversations.view"

    @extend_schema(
        operation_id="conversations_trajectory",
        parameters=[shapes.TrajectoryQuery],
        responses={
            (200, "application/json"): OpenApiTypes.OBJECT,
            (200, "text/markdown"): OpenApiTypes.STR,
            (200, "text/html"): OpenApiTypes.STR,
        },
    )
    def get(self, request: Request, pk: UUID) -> StreamingHttpResponse:
        """The whole log as a file, secrets taken out: JSON, Markdown, or one HTML file that replays it."""
        conversation = self.conversation(pk)
        query = parse_query(shapes.TrajectoryQuery, request)
        media_type, suffix = FORMATS[query["format"]]
        pieces = services.export_trajectory(
            conversation=conversation,
            format=query["format"],
            through_seq=query.get("through_seq"),
        )
        name = f"conversation-{conversation.pk.hex[-8:]}.{suffix}"
        return StreamingHttpResponse(
            pieces,
            content_type=media_type,
            headers={
                "Content-Disposition": f'attachment; filename="{name}"',
                "X-Content-Type-Options": "nosniff",
                "Content-Security-Policy": replay.CONTENT_POLICY,
            },
        )

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:  # noqa: FBT001, FBT002
        # ``?format=`` names the file's format here; DRF would look for a renderer of that name.
        renderer = self.get_renderers()[0]
        return renderer, renderer.media_type


class FeedbackListView(PartView):
    permission = "conversations.view"

    @extend_schema(
        operation_id="conversations_feedback_list", responses=shapes.FeedbackListSerializer
    )
    def get(self, request: ApiRequest, pk: UUID) -> Response:
        """All that you said of this conversation's events."""
        rows = services.list_feedback(user=request.user, conversation=self.conversation(pk))
        return Response({"items": shapes.FeedbackSerializer(rows, many=True).data})


class FeedbackView(PartView):
    permission = "conversations.view"

    @extend_schema(operation_id="conversations_feedback", responses=shapes.FeedbackSerializer)
    def get(self, request: ApiRequest, pk: UUID, seq: int) -> Response:
        """What you said of one event; the rating is null when you said nothing."""
        rows = services.list_feedback(
            user=request.user, conversation=self.conversation(pk), seq=seq
        )
        nothing: dict[str, Any] = {"seq": seq, "rating": None, "reason": "", "metadata": {}}
        nothing |= {"created_at": None, "updated_at": None}
        return Response(shapes.FeedbackSerializer(rows[0] if rows else nothing).data)

    @extend_schema(
        operation_id="conversations_feedback_give",
        request=shapes.NewFeedbackSerializer,
        responses=shapes.FeedbackSerializer,
    )
    def put(self, request: ApiRequest, pk: UUID, seq: int) -> Response:
        """Rate an event from 1 to 5, once a person: the newest word counts."""
        conversation = self.conversation(pk)
        body = self.body(shapes.NewFeedbackSerializer, request)
        feedback = services.save_feedback(
            user=request.user, conversation=conversation, seq=seq, **body
        )
        return Response(shapes.FeedbackSerializer(feedback).data)

    @extend_schema(operation_id="conversations_feedback_take_back", responses={204: None})
    def delete(self, request: ApiRequest, pk: UUID, seq: int) -> Response:
        """Take it back."""
        services.delete_feedback(user=request.user, conversation=self.conversation(pk), seq=seq)
        return Response(status=204)


class SharesView(PartView):
    permissions_by_action = {"get": "conversations.view", "post": "conversations.share"}  # noqa: RUF012

    @extend_schema(operation_id="conversations_shares_list", responses=shapes.ShareListSerializer)
    def get(self, request: Request, pk: UUID) -> Response:
        """The conversation's public links, ended ones included, newest first."""
        rows = services.list_shares(conversation=self.conversation(pk))
        return Response({"items": shapes.ShareSerializer(rows, many=True).data})

    @extend_schema(
        operation_id="conversations_shares_create",
        request=shapes.NewShareSerializer,
        responses={201: shapes.MadeShareSerializer},
    )
    def post(self, request: ApiRequest, pk: UUID) -> Response:
        """Make a public link. Its token is shown this once; secrets are always taken out of what it shows."""
        conversation = self.conversation(pk)
        body = self.body(shapes.NewShareSerializer, request)
        share, token = services.create_share(user=request.user, conversation=conversation, **body)
        told = shapes.ShareSerializer(share).data
        url = f"{settings.PUBLIC_URL}/shared/{token}"
        return Response(dict(told) | {"token": token, "url": url}, status=201)


class ShareView(PartView):
    permission = "conversations.share"

    @extend_schema(
        operation_id="conversations_shares_revoke",
        request=None,
        responses=shapes.ShareSerializer,
    )
    def delete(self, request: Request, pk: UUID, share_id: UUID) -> Response:
        """End a link now; it stays listed with its views."""
        share = services.revoke_share(conversation=self.conversation(pk), share_id=share_id)
        return Response(shapes.ShareSerializer(share).data)


class ShareViewsView(PartView):
    permission = "conversations.share"

    @extend_schema(operation_id="conversations_shares_views", responses=shapes.ShareViewsSerializer)
    def get(self, request: Request, pk: UUID, share_id: UUID) -> Response:
        """The newest hundred openings: when, and from which network."""
        rows = services.list_share_views(conversation=self.conversation(pk), share_id=share_id)
        return Response({"items": shapes.ShareViewSerializer(rows, many=True).data})


class ForkView(PartView):
    permission = "conversations.create"

    @extend_schema(
        operation_id="conversations_fork",
        request=shapes.NewForkSerializer,
        responses={201: ConversationSerializer},
    )
    def post(self, request: ApiRequest, pk: UUID) -> Response:
        """A new conversation of your own that begins where this one was after a turn."""
        conversation = self.conversation(pk)
        body = self.body(shapes.NewForkSerializer, request)
        require(request.user, conversation.organization_id, "conversations.create")
        fork = services.fork_conversation(user=request.user, conversation=conversation, **body)
        return Response(build_record(fork), status=201)


class TurnsView(PartView):
    permission = "conversations.view"

    @extend_schema(operation_id="conversations_turns", responses=shapes.TurnsSerializer)
    def get(self, request: Request, pk: UUID) -> Response:
        """The conversation's turns, oldest first."""
        turns = services.list_turns(conversation=self.conversation(pk))
        return Response({"items": [asdict(turn) for turn in turns]})


class TurnDiffView(PartView):
    permission = "files.view"

    @extend_schema(operation_id="conversations_turns_diff", responses=shapes.TurnDiffSerializer)
    def get(self, request: Request, pk: UUID, number: int) -> Response:
        """Which files the agent's editor changed in a turn, from the log; no sandbox is needed."""
        changes = services.find_turn_changes(conversation=self.conversation(pk), number=number)
        return Response(
            {
                "turn": asdict(changes.turn),
                "items": [change.to_wire() for change in changes.files],
                "ran_commands": changes.ran_commands,
            }
        )


# --- Opened by anybody who has the link ------------------------------------------------


class SharedView(APIView):
    permission = PUBLIC
    authentication_classes = ()

    @extend_schema(operation_id="shared", responses=shapes.SharedSerializer, auth=[])
    def get(self, request: Request, token: str) -> Response:
        """What a public link shows: its conversation's title and how far it may be read."""
        opened = services.open_share(token=token)
        services.count_view(share=opened.share, address=request.META.get("REMOTE_ADDR", ""))
        return Response(services.build_shared_record(opened), headers=PRIVATE_HEADERS)


class SharedEventsView(APIView):
    permission = PUBLIC
    authentication_classes = ()

    @extend_schema(
        operation_id="shared_events",
        parameters=[shapes.SharedEventQuery],
        responses=shapes.SharedEventsSerializer,
        auth=[],
    )
    def get(self, request: Request, token: str) -> Response:
        """A page of the events behind ``after``, up to the pinned one, with secrets taken out."""
        opened = services.open_share(token=token)
        query = parse_query(shapes.SharedEventQuery, request)
        items = services.list_shared_events(opened=opened, **query)
        is_more = len(items) == query["limit"]
        body = {
            "items": items,
            "next": items[-1]["seq"] if is_more else None,
            "last_seq": opened.last_seq,
        }
        return Response(body, headers=PRIVATE_HEADERS)
