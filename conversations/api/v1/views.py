"""Conversations over REST: parse, one service call or queryset, serialize."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import transaction
from django.http import Http404, HttpResponse, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import parsers, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.active import active_organization
from accounts.models import Organization
from accounts.permissions import require
from accounts.requests import ApiRequest
from conversations import services
from conversations.api.v1 import serializers
from conversations.api.v1.looking_up import PLACE, LookingUp
from conversations.log import lookups
from conversations.log.records import build_record, build_records, serialize_start_task
from conversations.models import Conversation
from conversations.realtime import held
from lib.api import JSONRenderer, conditional_response, parse_query
from lib.problems import Problem, TooLarge
from lib.routes import RouteFacts

IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="Up to 255 visible ASCII characters.",
)
LAST_EVENT_ID = OpenApiParameter(
    "Last-Event-ID", str, OpenApiParameter.HEADER, description="The id of the last event received."
)
PATH = OpenApiParameter("path", str, description="Relative to the workspace.")


class BadIdempotencyKey(Problem):
    """The header is not one that can be kept."""

    code = "bad-idempotency-key"
    sentence = "Idempotency-Key takes 1 to 255 visible ASCII characters."


class EventStreamRenderer(JSONRenderer):
    """For clients that accept a stream of events only; what they get as JSON is a refusal."""

    media_type = "text/event-stream"
    format = "event-stream"


class NotYours(Problem):
    """Something that only the conversation's creator may do."""

    status = 403
    code = "not-yours"
    sentence = "Only who started this conversation may share it or take it back."


class RawParser(parsers.BaseParser):
    """A file's bytes as the body, whatever it says it is."""

    media_type = "*/*"

    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> Any:
        return stream


class ConversationViewSet(LookingUp, viewsets.GenericViewSet[Conversation]):
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
        "messages": "conversations.steer",
        "events": "conversations.view",
        "stream_events": "conversations.view",
        "interrupt": "conversations.steer",
        "resume": "conversations.steer",
        "confirmation": "conversations.steer",
        "start_tasks": "conversations.view",
        "files": "files.view",
        "read_file": "files.view",
        "write_file": "files.edit",
        "upload": "files.edit",
        "archive": "files.view",
        "git_changes": "files.view",
        "git_diff": "files.view",
    }

    def get_queryset(self) -> Any:
        return Conversation.objects.visible_to(self.request.user)

    @extend_schema(
        parameters=[serializers.ConversationQuery],
        responses=serializers.FoundConversationSerializer(many=True),
    )
    def list(self, request: ApiRequest) -> HttpResponse:
        """Newest first, without what is archived. With ``q``, those whose title or messages match."""
        if request.query_params.keys() <= PLACE and lookups.can_look_up(request.user):
            return self.newest(request)
        query = parse_query(serializers.ConversationQuery, request, ignoring=PLACE)
        words = query.get("q", "")
        rows = self._filtered(query)
        if words:
            rows = services.search_conversations(rows.readable_by(request.user), words)
        page = self.paginate_queryset(rows) or []
        items = build_records(page)
        if words:
            found = services.find_snippets(page, words)
            items = [item | {"match": found.get(item["id"])} for item in items]
        return conditional_response(request, self.get_paginated_response(items).data)

    def _filtered(self, query: dict[str, Any]) -> Any:
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
        """Start a conversation; with an ``Idempotency-Key``, a repeat gives the same record."""
        body = self._body(serializers.NewConversationSerializer, request)
        organization = self._organization(request, body.pop("organization", None))
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

    def retrieve(self, request: ApiRequest, pk: UUID) -> HttpResponse:
        """One conversation's record."""
        if lookups.can_look_up(request.user):
            return self.one(request, pk)
        return conditional_response(request, build_record(self.get_object()))

    @extend_schema(request=serializers.ConversationPatchSerializer)
    def partial_update(self, request: ApiRequest, pk: UUID) -> Response:
        """Rename, tag, archive, say when the agent asks; only its creator may share it."""
        conversation = self.get_object()
        body = self._body(serializers.ConversationPatchSerializer, request)
        key = conversation.pk
        with transaction.atomic():
            if "visibility" in body:
                if conversation.created_by_id != request.user.pk:
                    raise NotYours
                conversation = services.set_visibility(
                    conversation_id=key, visibility=body["visibility"]
                )
            if "title" in body:
                conversation = services.rename(conversation_id=key, title=body["title"])
            if "tags" in body:
                conversation = services.set_tags(conversation_id=key, tags=body["tags"])
            if "archived" in body:
                conversation = services.set_archived(conversation_id=key, archived=body["archived"])
            policy, analyzer = body.get("confirmation_policy"), body.get("security_analyzer")
            if policy or analyzer:
                conversation = services.set_confirmation(
                    conversation_id=key, confirmation_policy=policy, security_analyzer=analyzer
                )
        return Response(build_record(conversation))

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: UUID) -> Response:
        """Delete it for good, with its sandbox and files."""
        services.delete_conversation(conversation_id=self.get_object().pk)
        return Response(status=204)

    @RouteFacts(cost="spend")
    @extend_schema(
        request=serializers.MessageSerializer, responses={202: serializers.AppendedSerializer}
    )
    @action(detail=True, methods=["post"])
    def messages(self, request: Request, pk: UUID) -> Response:
        """Say something to the agent. It is in the log when this answers."""
        conversation = self.get_object()
        body = self._body(serializers.MessageSerializer, request)
        event = services.post_message(
            conversation_id=conversation.pk,
            text=body["text"],
            message_id=str(body.get("message_id") or uuid4()),
            images=body.get("images", ()),
        )
        return _appended(event)

    @RouteFacts(held="wait")
    @extend_schema(
        parameters=[serializers.EventQuery],
        responses=serializers.EventPageSerializer,
        filters=False,
    )
    @action(detail=True, methods=["get"], pagination_class=None)
    def events(self, request: ApiRequest, pk: UUID) -> Response | HttpResponse:
        """A page of the log in order: behind ``after``, before ``before``, or from the start."""
        last_seq, epoch = self.log_end(request, pk)
        query = parse_query(serializers.EventQuery, request)
        items = lookups.list_events(
            pk,
            after=query.get("after", 0),
            before=query.get("before"),
            kind=query.get("kind"),
            limit=query["limit"],
        )
        if query["wait"] and not items and held.can_hold(request._request):  # noqa: SLF001
            plan = held.Plan(
                conversation=pk,
                user=request.user.pk,
                after=query.get("after", 0),
                wait=query["wait"],
                limit=query["limit"],
            )
            return held.hand_over(request._request, plan)  # noqa: SLF001
        return conditional_response(request, {"items": items, "last_seq": last_seq, "epoch": epoch})

    @RouteFacts(held="always")
    @extend_schema(
        operation_id="conversations_events_stream",
        parameters=[serializers.StreamQuery, LAST_EVENT_ID],
        responses={(200, "text/event-stream"): OpenApiTypes.STR},
        filters=False,
    )
    @action(
        detail=True,
        methods=["get"],
        url_path="events/stream",
        pagination_class=None,
        renderer_classes=[JSONRenderer, EventStreamRenderer],
    )
    def stream_events(self, request: ApiRequest, pk: UUID) -> HttpResponse:
        """The log from a place on as server-sent events: the frames of the WebSocket, one a message.

        Each event's id is ``<epoch>-<seq>``; a client that comes back with it as ``Last-Event-ID`` goes on
        right behind it, or is told ``reset``. A comment every few seconds keeps it alive.
        """
        conversation = self.get_object()
        query = parse_query(serializers.StreamQuery, request)
        after, epoch = query["after"], query.get("epoch")
        if last := request.headers.get("Last-Event-ID"):
            place = held.parse_event_id(last)
            if place is None:
                raise ValidationError({"Last-Event-ID": ["This is not an id that a stream gave."]})
            epoch, after = place
        plan = held.Plan(conversation.pk, request.user.pk, after=after, epoch=epoch)
        return held.hand_over(request._request, plan)  # noqa: SLF001

    @extend_schema(request=None, responses={202: serializers.ConversationSerializer})
    @action(detail=True, methods=["post"])
    def interrupt(self, request: Request, pk: UUID) -> Response:
        """Stop the agent now."""
        conversation = self.get_object()
        services.interrupt(conversation_id=conversation.pk)
        return Response(build_record(conversation), status=202)

    @RouteFacts(cost="spend")
    @extend_schema(request=None, responses={202: serializers.ConversationSerializer})
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, pk: UUID) -> Response:
        """Wake the sandbox, and let an agent that was stopped or failed go on."""
        conversation = self.get_object()
        services.resume(conversation_id=conversation.pk)
        conversation.refresh_from_db()
        return Response(build_record(conversation), status=202)

    @extend_schema(
        request=serializers.AnswerSerializer, responses={202: serializers.AppendedSerializer}
    )
    @action(detail=True, methods=["post"])
    def confirmation(self, request: Request, pk: UUID) -> Response:
        """Answer the agent's open question; 409 when it is not open any more."""
        conversation = self.get_object()
        body = self._body(serializers.AnswerSerializer, request)
        return _appended(services.answer_confirmation(conversation_id=conversation.pk, **body))

    @extend_schema(responses=serializers.StartTasksSerializer, filters=False)
    @action(detail=True, methods=["get"], url_path="start-tasks", pagination_class=None)
    def start_tasks(self, request: Request, pk: UUID) -> Response:
        """The last twenty attempts to bring the sandbox up, newest first."""
        rows = self.get_object().start_tasks.order_by("-created_at")[:20]
        return Response({"items": [serialize_start_task(row) for row in rows]})

    # --- Files -------------------------------------------------------------------

    @RouteFacts(streams=True)
    @extend_schema(parameters=[PATH], responses=serializers.FolderSerializer, filters=False)
    @action(detail=True, methods=["get"], pagination_class=None)
    def files(self, request: Request, pk: UUID) -> Response:
        """A folder of the workspace."""
        conversation = self.get_object()
        path = parse_query(serializers.FileQuery, request)["path"]
        entries = services.list_files(conversation_id=conversation.pk, path=path)
        return Response({"path": path, "entries": [entry.to_wire() for entry in entries]})

    @RouteFacts(streams=True, body_limit="UPLOAD_MAX_BYTES")
    @extend_schema(
        operation_id="conversations_files_read",
        parameters=[PATH],
        responses={(200, "application/octet-stream"): OpenApiTypes.BINARY},
    )
    @action(detail=True, methods=["get"], url_path="files/content")
    def read_file(self, request: Request, pk: UUID) -> StreamingHttpResponse:
        """A file's bytes."""
        conversation = self.get_object()
        path = parse_query(serializers.FileQuery, request)["path"]
        return _download(services.read_file(conversation_id=conversation.pk, path=path))

    @extend_schema(
        operation_id="conversations_files_write",
        parameters=[PATH],
        request={"application/octet-stream": OpenApiTypes.BINARY},
        responses=serializers.WrittenFileSerializer,
    )
    @read_file.mapping.put
    def write_file(self, request: Request, pk: UUID) -> Response:
        """Write a file, its folders included."""
        conversation = self.get_object()
        path = parse_query(serializers.FileQuery, request)["path"]
        with _spooled(request.stream) as content:
            size = services.write_file(conversation_id=conversation.pk, path=path, content=content)
        return Response({"path": path, "size": size})

    @RouteFacts(streams=True, body_limit="UPLOAD_MAX_BYTES")
    @extend_schema(
        request={"multipart/form-data": serializers.UploadSerializer},
        responses={201: serializers.WrittenFileSerializer},
    )
    @action(
        detail=True,
        methods=["post"],
        url_path="files/upload",
        parser_classes=[parsers.MultiPartParser],
    )
    def upload(self, request: Request, pk: UUID) -> Response:
        """Put a file into a folder of the workspace."""
        conversation = self.get_object()
        body = self._body(serializers.UploadSerializer, request)
        folder = body.get("path", "").strip("/")
        path = f"{folder}/{body['file'].name}" if folder else body["file"].name
        size = services.write_file(
            conversation_id=conversation.pk, path=path, content=body["file"].file
        )
        return Response({"path": path, "size": size}, status=201)

    @RouteFacts(streams=True)
    @extend_schema(
        parameters=[serializers.ArchiveQuery],
        responses={(200, "application/octet-stream"): OpenApiTypes.BINARY},
        filters=False,
    )
    @action(detail=True, methods=["get"], pagination_class=None)
    def archive(self, request: Request, pk: UUID) -> StreamingHttpResponse:
        """The whole workspace in one file."""
        conversation = self.get_object()
        kind = parse_query(serializers.ArchiveQuery, request)["format"]
        chunks = services.download_archive(conversation_id=conversation.pk, format=kind)
        return _download(chunks, name=f"workspace-{conversation.pk.hex[:8]}.{kind}")

    @RouteFacts(streams=True)
    @extend_schema(responses=serializers.GitChangesSerializer, filters=False)
    @action(detail=True, methods=["get"], url_path="git/changes", pagination_class=None)
    def git_changes(self, request: Request, pk: UUID) -> Response:
        """What changed in the workspace's repository."""
        return Response({"items": services.git_changes(conversation_id=self.get_object().pk)})

    @RouteFacts(streams=True)
    @extend_schema(parameters=[PATH], responses=serializers.GitDiffSerializer, filters=False)
    @action(detail=True, methods=["get"], url_path="git/diff", pagination_class=None)
    def git_diff(self, request: Request, pk: UUID) -> Response:
        """A file before and after."""
        conversation = self.get_object()
        path = parse_query(serializers.FileQuery, request)["path"]
        return Response(services.git_diff(conversation_id=conversation.pk, path=path))

    # --- Parts -------------------------------------------------------------------

    def get_parsers(self) -> Any:
        method = (self.request.method or "").lower() if self.request else ""
        if getattr(self, "action_map", {}).get(method) == "write_file":
            return [RawParser()]
        return super().get_parsers()

    def _body(self, kind: Any, request: Request) -> dict[str, Any]:
        serializer = kind(data=request.data)
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)

    def _organization(self, request: Request, wanted: UUID | None) -> Organization:
        """The organization that a new conversation belongs to."""
        try:
            return active_organization(request._request, wanted)  # noqa: SLF001
        except Http404 as error:
            sentence = "You are not a member of that organization."
            raise ValidationError({"organization": [sentence]}) from error


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
        raise BadIdempotencyKey
    return key


@contextmanager
def _spooled(stream: Any) -> Iterator[IO[bytes]]:
    """A request's body in a temporary file, once its size is known to be within the limit."""
    with tempfile.SpooledTemporaryFile(1_048_576) as content:
        while chunk := stream.read(65_536) if stream is not None else b"":
            content.write(chunk)
            if content.tell() > settings.UPLOAD_MAX_BYTES:
                raise TooLarge(f"A file may have at most {settings.UPLOAD_MAX_BYTES} bytes.")
        content.seek(0)
        yield content


def _appended(event: Any) -> Response:
    return Response({"seq": event.seq, "event_id": event.event_id}, status=202)


def _download(chunks: Any, name: str = "") -> StreamingHttpResponse:
    """Bytes of a sandbox: never shown in our origin, always saved."""
    disposition = f'attachment; filename="{name}"' if name else "attachment"
    return StreamingHttpResponse(
        chunks,
        content_type="application/octet-stream",
        headers={
            "Content-Disposition": disposition,
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "sandbox; default-src 'none'",
        },
    )
