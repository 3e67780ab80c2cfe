"""``/api/v1/app-conversations…``: search and start conversations, and follow their start tasks."""

import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import orjson
from django.db.models import Exists, OuterRef
from django.http import Http404, HttpResponse, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.active import active_organization
from accounts.models import ApiKey
from accounts.permissions import require, require_on
from accounts.requests import ApiRequest
from compat.reads import json_response, page_summaries
from compat.v1 import responses, serializers
from compat.v1.base import (
    Unprocessable,
    V1View,
    fetch_page,
    filter_by,
    parse_id,
    parse_ids,
    parse_page_id,
)
from compat.v1.fields import check_fields, refuse
from conversations import services
from conversations.api.v1.serializers import RepositorySerializer
from conversations.log import lookups
from conversations.log.summaries import find_summaries, list_summaries
from conversations.models import Conversation, StartTask
from conversations.services.pull_requests import record_pull_request
from lib import pages
from lib.routes import RouteFacts

TAGS = ["compat"]
IDS = OpenApiParameter("ids", OpenApiTypes.UUID, many=True, required=True)
STREAM_SECONDS = 150
"""The maximum number of seconds that a stream of changes stays open. The client then polls."""
IGNORED_WITH_SANDBOX = (
    *("conversation_id", "parent_conversation_id", "llm_model", "pr_number"),
    *("selected_repository", "selected_branch"),
)
"""Fields that cannot be applied to the conversation that ``POST /sandboxes`` created."""
STREAM_PAUSE = 0.5
"""Seconds between two reads of a start task."""
TIMES = ("created_at__gte", "created_at__lt", "updated_at__gte", "updated_at__lt")


def search(request: Request, query: dict[str, Any]) -> Any:
    """Return the conversations that match a validated ``SearchQuery`` and that the caller may see."""
    rows = filter_by(Conversation.objects.visible_to(request.user), query, *TIMES)
    if "title__contains" in query:
        # PostgreSQL refuses NUL characters. No title contains one.
        rows = rows.filter(title__icontains=query["title__contains"].replace("\0", ""))
    return rows if query["include_sub_conversations"] else rows.filter(parent=None)


@RouteFacts(replaced_by="/api/v1/conversations")
class AppConversationSearchView(V1View):
    """The caller's conversations, newest first."""

    permission = "conversations.view"
    serializer_class = serializers.AppConversationPageSerializer

    @extend_schema(
        operation_id="v1_app_conversations_search",
        tags=TAGS,
        parameters=[serializers.ConversationPageQuery],
    )
    def get(self, request: ApiRequest) -> HttpResponse:
        """Return a page of the caller's conversations."""
        query = self.query(serializers.ConversationPageQuery)
        user, limit, after = request.user, query["limit"], parse_page_id(query)
        filters = query.keys() - {"limit", "page_id", "include_sub_conversations"}
        if filters or query["include_sub_conversations"] or not lookups.can_look_up(user):
            page, next_page_id = page_summaries(
                user, search(request, query), limit=limit, after=after
            )
        else:
            # One more row than the page has shows whether there is a next page.
            rows = list_summaries(user, limit=limit + 1, after=after)
            page, next_page_id = pages.cut_page(rows, limit, lambda row: row.position)
        items = responses.serialize_conversations(page, user)
        return json_response({"items": items, "next_page_id": next_page_id})


@RouteFacts(replaced_by="/api/v1/conversations")
class AppConversationCountView(V1View):
    """The route that counts the caller's conversations."""

    permission = "conversations.view"

    @extend_schema(
        operation_id="v1_app_conversations_count",
        tags=TAGS,
        parameters=[serializers.SearchQuery],
        responses=OpenApiTypes.INT,
    )
    def get(self, request: Request) -> Response:
        """Return the number of conversations that a search would return."""
        return Response(search(request, self.query(serializers.SearchQuery)).count())


@RouteFacts(cost="spend", replaced_by="/api/v1/conversations")
class AppConversationsView(V1View):
    """Conversations by id, and new conversations."""

    permissions_by_action = {"get": "conversations.view", "post": "conversations.create"}  # noqa: RUF012 - read by HasPermission
    serializer_class = serializers.AppConversationSerializer

    @extend_schema(
        operation_id="v1_app_conversations_list",
        tags=TAGS,
        parameters=[IDS],
        responses={(200, "application/json"): serializers.nullable_rows_schema("AppConversation")},
    )
    def get(self, request: ApiRequest) -> HttpResponse:
        """Return the conversations in the order of the requested ids, with null for each id without a conversation."""
        ids = parse_ids(request, "ids")
        rows = list(find_summaries(request.user, ids).values())
        items = responses.serialize_conversations(rows, request.user)
        by_id = {item["id"]: item for item in items}
        return json_response([by_id.get(pk.hex) for pk in ids])

    @extend_schema(
        operation_id="v1_app_conversations_create",
        tags=TAGS,
        request=serializers.V1StartRequestSerializer,
        responses=serializers.V1StartTaskSerializer,
    )
    def post(self, request: Request) -> Response:
        """Start a conversation. Follow its start task by the id in the response."""
        return Response(responses.serialize_start(start_conversation(self)))


@RouteFacts(streams=True, cost="spend", replaced_by="/api/v1/conversations")
class StreamStartView(V1View):
    """The route that starts a conversation and streams the changes of its start task."""

    permission = "conversations.create"

    @extend_schema(
        operation_id="v1_app_conversations_stream_start",
        tags=TAGS,
        request=serializers.V1StartRequestSerializer,
        responses={200: serializers.V1StartTaskSerializer(many=True)},
    )
    def post(self, request: Request) -> StreamingHttpResponse:
        """Start a conversation and stream its start task.

        The response is a JSON array that is sent in pieces: one item for each change of the start task.
        """
        return StreamingHttpResponse(
            _stream_changes(start_conversation(self).pk), content_type="application/json"
        )


def _stream_changes(start_id: UUID) -> Iterator[bytes]:
    """Yield the text of the JSON array, one item per change, until the start ends or ``STREAM_SECONDS`` have passed."""
    # ``opening`` is the text before the next item: the bracket, then a comma.
    deadline, last, opening = time.monotonic() + STREAM_SECONDS, None, b"["
    while time.monotonic() < deadline:
        start = _starts().filter(pk=start_id).first()
        if start is None:
            break
        item = responses.serialize_start(start)
        if item != last:
            yield opening + orjson.dumps(item)
            last, opening = item, b",\n"
        if start.phase in (StartTask.Phase.READY, StartTask.Phase.ERROR):
            break
        time.sleep(STREAM_PAUSE)
    yield b"]" if last else b"[]"


@RouteFacts(replaced_by="/api/v1/conversations/{}/start-tasks")
class StartTaskSearchView(V1View):
    """The start tasks of the caller's conversations."""

    permission = "conversations.view"
    serializer_class = serializers.V1StartTaskPageSerializer

    @extend_schema(
        operation_id="v1_start_tasks_search",
        tags=TAGS,
        parameters=[serializers.StartPageQuery],
    )
    def get(self, request: Request) -> Response:
        """Return a page of start tasks: for each of the caller's conversations, the task that created it."""
        query = self.query(serializers.StartPageQuery)
        rows, next_page_id = fetch_page(
            _first_starts(request, query),
            query,
            is_descending=query["sort_order"] == "CREATED_AT_DESC",
        )
        items = [responses.serialize_start(row) for row in rows]
        return Response({"items": items, "next_page_id": next_page_id})


@RouteFacts(replaced_by="/api/v1/conversations/{}/start-tasks")
class StartTaskCountView(V1View):
    """The route that counts start tasks."""

    permission = "conversations.view"

    @extend_schema(
        operation_id="v1_start_tasks_count",
        tags=TAGS,
        parameters=[serializers.StartQuery],
        responses=OpenApiTypes.INT,
    )
    def get(self, request: Request) -> Response:
        """Return the number of start tasks that a search would return."""
        return Response(_first_starts(request, self.query(serializers.StartQuery)).count())


@RouteFacts(replaced_by="/api/v1/conversations/{}/start-tasks")
class StartTasksView(V1View):
    """Start tasks by id."""

    permission = "conversations.view"

    @extend_schema(
        operation_id="v1_start_tasks_list",
        tags=TAGS,
        parameters=[IDS],
        responses={(200, "application/json"): serializers.nullable_rows_schema("V1StartTask")},
    )
    def get(self, request: ApiRequest) -> Response:
        """Return the start tasks in the order of the requested ids, with null for each id without a task.

        The web client polls this route every 3 seconds until the task is ready, or until it receives null.
        """
        ids = parse_ids(request, "ids")
        rows = _starts().filter(conversation__in=Conversation.objects.visible_to(request.user))
        by_id = {row.pk: responses.serialize_start(row) for row in rows.filter(pk__in=ids)}
        return Response([by_id.get(pk) for pk in ids])


def _starts() -> Any:
    return StartTask.objects.select_related("conversation")


def _first_starts(request: Request, query: dict[str, Any]) -> Any:
    """Return the first start task of each conversation that matches a query.

    In V1 a start task creates a conversation. This server also records later starts of the sandbox, which are left out.
    """
    earlier = StartTask.objects.filter(
        conversation=OuterRef("conversation"), created_at__lt=OuterRef("created_at")
    )
    rows = _starts().filter(conversation__in=Conversation.objects.visible_to(request.user))
    rows = filter_by(rows.exclude(Exists(earlier)), query, "created_at__gte")
    conversation_id = query.get("conversation_id__eq")
    return rows.filter(conversation_id=conversation_id) if conversation_id else rows


# --- Starting ------------------------------------------------------------------


def start_conversation(view: V1View) -> StartTask:
    """Create the conversation that a request's body describes, and return the start task that clients poll."""
    request = view.request
    body = view.body(serializers.V1StartRequestSerializer)
    _check_start_request(request.data, body)
    message = body.get("initial_message")
    text, images = serializers.split_message(message) if message else (None, [])
    if body.get("sandbox_id"):
        return _start_in_sandbox(request, body, text, images)
    parent = get_parent(request, body.get("parent_conversation_id"))
    name = body.get("selected_repository")
    if parent and name and name != (parent.repository or {}).get("full_name"):
        raise refuse("selected_repository", "A child works in the repository of its parent.")
    organization = parent.organization if parent else active_organization(request._request)  # noqa: SLF001
    require(request.user, organization.pk, "conversations.create")
    conversation = services.create_conversation(
        user=request.user,
        organization=organization,
        title=body.get("title") or None,
        repository=parent.repository if parent else _parse_repository(body),
        model=body.get("llm_model") or (parent.model if parent else None),
        trigger=body.get("trigger") or _choose_trigger(request),
        parent=parent,
        conversation_id=body.get("conversation_id"),
        message=text,
        images=images,
    )
    for number in body.get("pr_number") or ():
        record_pull_request(conversation_id=conversation.pk, number=number)
    return _get_first_start(conversation)


def _check_start_request(sent: Any, body: dict[str, Any]) -> None:
    """Raise ``Unprocessable`` if a request asks for something that this server does not do, or that has no effect."""
    ignored = {"processors", "system_message_suffix", "agent_type"}
    known = serializers.V1StartRequestSerializer().fields.keys() - ignored
    check_fields(sent, handled=known, defaults={"agent_type": "default"})
    has_repository = body.get("selected_repository") or body.get("parent_conversation_id")
    # ``git_provider`` alone only says which host the client shows.
    if body.get("selected_branch") and not has_repository:
        raise refuse("selected_branch", "Send `selected_repository` too.")
    if body.get("sandbox_id"):
        for name in IGNORED_WITH_SANDBOX:
            if body.get(name):
                raise refuse(
                    name,
                    "The sandbox has its conversation already. Leave the field or `sandbox_id` out.",
                )


def _choose_trigger(request: Request) -> str:
    has_api_key = isinstance(request.auth, ApiKey)
    return Conversation.Trigger.API if has_api_key else Conversation.Trigger.GUI


def get_parent(request: Request, parent_id: UUID | None) -> Conversation | None:
    """Return the conversation that a request names as the parent. Raise ``Http404`` if the caller may not see it."""
    if parent_id is None:
        return None
    rows = Conversation.objects.visible_to(request.user).select_related("organization")
    parent = rows.filter(pk=parent_id).first()
    if parent is None:
        raise Http404
    return parent


def _parse_repository(body: dict[str, Any]) -> dict[str, Any] | None:
    if not body.get("selected_repository"):
        return None
    repository = RepositorySerializer(
        data={
            "provider": body.get("git_provider") or "github",
            "full_name": body["selected_repository"],
            "branch": body.get("selected_branch"),
        }
    )
    repository.is_valid(raise_exception=True)
    return dict(repository.validated_data)


def _start_in_sandbox(
    request: ApiRequest, body: dict[str, Any], text: str | None, images: list[str]
) -> StartTask:
    """Start the empty conversation of a sandbox that ``POST /sandboxes`` created.

    On this server a sandbox belongs to one conversation, so raise ``Unprocessable`` if that conversation has a message.
    """
    rows = Conversation.objects.visible_to(request.user)
    conversation = rows.filter(sandbox_id=parse_id(body["sandbox_id"], "sandbox_id")).first()
    if conversation is None:
        raise Http404
    require_on(request.user, conversation, "conversations.steer")
    if conversation.events.filter(kind="UserMessage").exists():
        raise Unprocessable(
            "sandbox_id: This sandbox belongs to a conversation with messages. To use a new sandbox, omit `sandbox_id`."
        )
    if body.get("title") or text:
        services.rename(
            conversation_id=conversation.pk, title=body.get("title") or services.make_title(text)
        )
    if text is not None:
        services.post_message(
            conversation_id=conversation.pk,
            text=text,
            images=images,
            message_id=f"first-{conversation.pk.hex}",  # a repeated request posts it only once
            by=request.user,
        )
    return _get_first_start(conversation)


def _get_first_start(conversation: Conversation) -> StartTask:
    start: StartTask = _starts().filter(conversation=conversation).order_by("created_at").first()
    return start
