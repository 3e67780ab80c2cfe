"""API endpoints for conversations: the list, records, and the commands that concern a conversation as a whole."""

from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.http import Http404, HttpResponse, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import ValidationError
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.active import active_organization
from accounts.models import Organization
from accounts.permissions import require, require_on
from accounts.requests import ApiRequest
from accounts.roles import STOP
from conversations import services
from conversations.api.v1 import serializers
from conversations.api.v1.mixins import PAGE_PARAMETERS, BodyMixin, FastReadMixin
from conversations.log import replay
from conversations.log.records import build_record, build_records, serialize_start_task
from conversations.models import Conversation
from conversations.services.exports import FORMATS
from lib.api import conditional_response, parse_query
from lib.problems import Problem
from lib.routes import RouteFacts

IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="An identifier that you choose for this request: 1 to 255 visible ASCII characters. A repeated request "
    "with the same identifier returns the first conversation.",
)
SHARING = ("visibility", "others_may_steer", "lends_personal")
"""The fields of a record that only its creator may change."""


class BadIdempotencyKey(Problem):
    """The ``Idempotency-Key`` header is empty, too long, or has characters other than visible ASCII."""

    code = "bad-idempotency-key"
    sentence = "The Idempotency-Key header must have 1 to 255 visible ASCII characters."


class FirstRenderer(BaseContentNegotiation):
    """Content negotiation that always chooses the view's first renderer."""

    def select_renderer(self, request: Any, renderers: Any, format_suffix: Any = None) -> Any:
        return renderers[0], renderers[0].media_type


class ConversationViewSet(
    FastReadMixin, BodyMixin, mixins.DestroyModelMixin, viewsets.GenericViewSet[Conversation]
):
    """Conversations that you may see: your own, and those shared with your organizations."""

    serializer_class = serializers.ConversationSerializer
    queryset = Conversation.objects.none()
    lookup_value_converter = "uuid"
    permissions_by_action = {  # noqa: RUF012 - read by HasPermission
        "list": "conversations.view",
        "retrieve": "conversations.view",
        "create": "conversations.create",
        "partial_update": "conversations.steer",
        "destroy": "conversations.delete",
        "interrupt": "conversations.steer",
        "resume": "conversations.steer",
        "confirmation": "conversations.steer",
        "start_tasks": "conversations.view",
        "trajectory": "conversations.view",
        "fork": "conversations.create",
    }
    object_permissions_by_action = {  # noqa: RUF012 - read by HasPermission
        "interrupt": STOP,
        # The method checks the permission for all fields but those of the sharing, which only the creator may change.
        "partial_update": "conversations.view",
    }
    url_names = {"trajectory": "trajectory", "fork": "fork"}  # noqa: RUF012 - read by Router

    def get_queryset(self) -> QuerySet[Conversation]:
        return Conversation.objects.visible_to(self.request.user)

    @extend_schema(
        parameters=[serializers.ConversationQuery],
        responses=serializers.FoundConversationSerializer(many=True),
    )
    def list(self, request: ApiRequest) -> HttpResponse:
        """List conversations, newest first. By default, archived conversations are left out.

        With ``q``, list only the conversations whose title or messages match.
        """
        if request.query_params.keys() <= PAGE_PARAMETERS and self.can_read_fast():
            return self.read_newest()
        query = parse_query(serializers.ConversationQuery, request, ignoring=PAGE_PARAMETERS)
        words = query.get("q", "")
        rows = self._filter(query)
        if words:
            rows = services.search_conversations(rows, words)
        page = self.paginate_queryset(rows) or []
        items = build_records(page)
        if words:
            snippets = services.find_snippets(page, words)
            items = [item | {"match": snippets.get(item["id"])} for item in items]
        return conditional_response(request, self.get_paginated_response(items).data)

    def _filter(self, query: dict[str, Any]) -> Any:
        rows = self.get_queryset()
        for name in ("status", "execution_status", "trigger"):
            if name in query:
                rows = rows.filter(**{name: query[name]})
        if "tag" in query:
            rows = rows.filter(tags__contains=[query["tag"]])
        if "repository" in query:
            rows = rows.filter(repository__full_name=query["repository"])
        if query["archived"] != "any":
            rows = rows.filter(archived_at__isnull=query["archived"] == "false")
        return rows

    @RouteFacts(cost="spend")
    @extend_schema(
        request=serializers.NewConversationSerializer,
        responses={201: serializers.ConversationSerializer},
        parameters=[IDEMPOTENCY_KEY],
    )
    def create(self, request: ApiRequest) -> Response:
        """Start a conversation. A repeat with the same ``Idempotency-Key`` returns the first conversation."""
        body = self.validate_body(serializers.NewConversationSerializer)
        organization = self._organization(body.pop("organization", None))
        require(request.user, organization.pk, "conversations.create")
        if message_id := body.pop("message_id", None):
            body["message_id"] = str(message_id)
        conversation = services.create_conversation(
            user=request.user,
            organization=organization,
            idempotency_key=_idempotency_key(request),
            **body,
        )
        return Response(build_record(conversation), status=201)

    def _organization(self, requested_id: UUID | None) -> Organization:
        """Return the organization that a new conversation belongs to."""
        try:
            return active_organization(self.request._request, requested_id)  # noqa: SLF001
        except Http404 as error:
            # The organization is a field of the request body, so the response is 400 with the name of the field.
            sentence = "You are not a member of this organization."
            raise ValidationError({"organization": [sentence]}) from error

    def retrieve(self, request: ApiRequest, pk: UUID) -> HttpResponse:
        """Return the record of a conversation."""
        if self.can_read_fast():
            return self.read_record(pk)
        return conditional_response(request, build_record(self.get_object()))

    @extend_schema(request=serializers.ConversationPatchSerializer)
    def partial_update(self, request: ApiRequest, pk: UUID) -> Response:
        """Change the title, tags, archive state, sharing or confirmation policy.

        Only the creator may change `visibility`, `others_may_steer` and `lends_personal`. Each change ends the access
        keys of the conversation. If the run's secrets and model change, its sandbox stops, and starts again with the
        next message.
        """
        conversation = self.get_object()
        names = set(request.data) if isinstance(request.data, dict) else set()
        if not names or names - set(SHARING):
            require_on(request.user, conversation, "conversations.steer")
        body = self.validate_body(serializers.ConversationPatchSerializer)
        key = conversation.pk
        with transaction.atomic():
            if sharing := {name: body[name] for name in SHARING if name in body}:
                conversation = services.set_sharing(conversation_id=key, by=request.user, **sharing)
            if "title" in body:
                conversation = services.rename(conversation_id=key, title=body["title"])
            if "tags" in body:
                conversation = services.set_tags(conversation_id=key, tags=body["tags"])
            if "archived" in body:
                conversation = services.set_archived(conversation_id=key, archived=body["archived"])
            policy, analyzer = body.get("confirmation_policy"), body.get("security_analyzer")
            if policy or analyzer:
                conversation = services.set_confirmation(
                    conversation_id=key,
                    confirmation_policy=policy,
                    security_analyzer=analyzer,
                    by=request.user,
                )
        return Response(build_record(conversation))

    @extend_schema(
        responses={204: None},
        description="Delete a conversation permanently, with its sandbox and files.",
    )
    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().destroy(request, *args, **kwargs)

    def perform_destroy(self, instance: Conversation) -> None:
        services.delete_conversation(conversation_id=instance.pk)

    # --- Commands to the agent -------------------------------------------------------

    @extend_schema(request=None, responses={202: serializers.ConversationSerializer})
    @action(detail=True, methods=["post"])
    def interrupt(self, request: ApiRequest, pk: UUID) -> Response:
        """Stop the agent immediately. Its current tool or model call is cancelled."""
        conversation = self.get_object()
        services.interrupt(conversation_id=conversation.pk, by=request.user)
        return Response(build_record(conversation), status=202)

    @RouteFacts(cost="spend")
    @extend_schema(request=None, responses={202: serializers.ConversationSerializer})
    @action(detail=True, methods=["post"])
    def resume(self, request: ApiRequest, pk: UUID) -> Response:
        """Start the sandbox if it is not running, and let an agent that was stopped or failed continue."""
        conversation = self.get_object()
        services.resume(conversation_id=conversation.pk, by=request.user)
        conversation.refresh_from_db()
        return Response(build_record(conversation), status=202)

    # Like `resume`, an answer makes the agent continue, so it counts as spending. While Redis is down, the rate limit
    # cannot be checked and answers are refused. The question then stays open, and `interrupt` still works.
    @RouteFacts(cost="spend")
    @extend_schema(
        request=serializers.AnswerSerializer, responses={202: serializers.AppendedSerializer}
    )
    @action(detail=True, methods=["post"])
    def confirmation(self, request: ApiRequest, pk: UUID) -> Response:
        """Answer the agent's open question. The response is 409 if the question is no longer open."""
        conversation = self.get_object()
        body = self.validate_body(serializers.AnswerSerializer)
        event = services.answer_confirmation(
            conversation_id=conversation.pk, by=request.user, **body
        )
        return Response({"seq": event.seq, "event_id": event.event_id}, status=202)

    # --- Starts, exports and forks ------------------------------------------------------

    @extend_schema(responses=serializers.StartTasksSerializer, filters=False)
    @action(detail=True, methods=["get"], url_path="start-tasks", pagination_class=None)
    def start_tasks(self, request: Request, pk: UUID) -> Response:
        """List the last twenty attempts to start the sandbox, newest first."""
        rows = self.get_object().start_tasks.order_by("-created_at")[:20]
        return Response({"items": [serialize_start_task(row) for row in rows]})

    @extend_schema(
        operation_id="conversations_trajectory",
        parameters=[serializers.TrajectoryQuery],
        responses={
            (200, "application/json"): OpenApiTypes.OBJECT,
            (200, "text/markdown"): OpenApiTypes.STR,
            (200, "text/html"): OpenApiTypes.STR,
        },
        filters=False,
    )
    @action(
        detail=True,
        methods=["get"],
        pagination_class=None,
        # Clients send the type of the requested file in `Accept`, such as text/html, for which DRF has no renderer.
        content_negotiation_class=FirstRenderer,
    )
    def trajectory(self, request: Request, pk: UUID) -> StreamingHttpResponse:
        """Download the log as a file without secrets: as JSON, as Markdown, or as an HTML file that replays the log."""
        conversation = self.get_object()
        query = parse_query(serializers.TrajectoryQuery, request)
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

    @RouteFacts(cost="spend")
    @extend_schema(
        operation_id="conversations_fork",
        request=serializers.NewForkSerializer,
        responses={201: serializers.ConversationSerializer},
    )
    @action(detail=True, methods=["post"])
    def fork(self, request: ApiRequest, pk: UUID) -> Response:
        """Start your own conversation from a copy of this conversation's log, up to the end of a turn."""
        conversation = self.get_object()
        body = self.validate_body(serializers.NewForkSerializer)
        fork = services.fork_conversation(user=request.user, conversation=conversation, **body)
        return Response(build_record(fork), status=201)


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
        raise BadIdempotencyKey
    return key
