"""``/api/v1/app-conversations…``: find, start, and watch a start."""

import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import orjson
from django.db.models import Exists, OuterRef
from django.http import Http404, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.active import active_organization
from accounts.models import ApiKey
from accounts.permissions import require
from accounts.requests import ApiRequest
from compat.v1 import responses, shapes
from compat.v1.base import Unprocessable, V1View, as_id, filtered, ids_of, page_of
from conversations import services
from conversations.api.v1.serializers import RepositorySerializer
from conversations.models import Conversation, StartTask
from lib.routes import RouteFacts

TAGS = ["compat"]
IDS = OpenApiParameter("ids", OpenApiTypes.UUID, many=True, required=True)
STREAM_SECONDS = 150
STREAM_PAUSE = 0.5
TIMES = ("created_at__gte", "created_at__lt", "updated_at__gte", "updated_at__lt")


def found(request: Request, query: dict[str, Any]) -> Any:
    """The caller's conversations that a query asks for."""
    rows = Conversation.objects.visible_to(request.user).select_related("sandbox")
    rows = filtered(rows, query, *TIMES)
    if "title__contains" in query:
        rows = rows.filter(title__icontains=query["title__contains"].replace("\0", ""))
    return rows if query["include_sub_conversations"] else rows.filter(parent=None)


@RouteFacts(replaced_by="/api/v1/conversations")
class AppConversationSearchView(V1View):
    """Conversations, newest first."""

    permission = "conversations.view"
    serializer_class = shapes.AppConversationPageSerializer

    @extend_schema(
        operation_id="v1_app_conversations_search",
        tags=TAGS,
        parameters=[shapes.ConversationPageQuery],
    )
    def get(self, request: ApiRequest) -> Response:
        """A page of the caller's conversations."""
        query = self.query(shapes.ConversationPageQuery)
        rows, following = page_of(found(request, query), query)
        items = responses.app_conversations(rows, request.user)
        return Response({"items": items, "next_page_id": following})


@RouteFacts(replaced_by="/api/v1/conversations")
class AppConversationCountView(V1View):
    """How many conversations there are."""

    permission = "conversations.view"

    @extend_schema(
        operation_id="v1_app_conversations_count",
        tags=TAGS,
        parameters=[shapes.SearchQuery],
        responses=OpenApiTypes.INT,
    )
    def get(self, request: Request) -> Response:
        """How many of the caller's conversations a search would find."""
        return Response(found(request, self.query(shapes.SearchQuery)).count())


@RouteFacts(cost="spend", replaced_by="/api/v1/conversations")
class AppConversationsView(V1View):
    """Conversations by id, and the beginning of one."""

    permissions_by_action = {"get": "conversations.view", "post": "conversations.create"}  # noqa: RUF012 - read by HasPermission
    serializer_class = shapes.AppConversationSerializer

    @extend_schema(
        operation_id="v1_app_conversations_list",
        tags=TAGS,
        parameters=[IDS],
        responses={(200, "application/json"): shapes.rows_or_null("AppConversation")},
    )
    def get(self, request: ApiRequest) -> Response:
        """These conversations in this order, null for what is not there."""
        wanted = ids_of(request, "ids")
        rows = Conversation.objects.visible_to(request.user).select_related("sandbox")
        told = responses.app_conversations(rows.filter(pk__in=wanted).distinct(), request.user)
        by_id = {one["id"]: one for one in told}
        return Response([by_id.get(pk.hex) for pk in wanted])

    @extend_schema(
        operation_id="v1_app_conversations_create",
        tags=TAGS,
        request=shapes.V1StartRequestSerializer,
        responses=shapes.V1StartTaskSerializer,
    )
    def post(self, request: Request) -> Response:
        """Start a conversation; watch its start by the id that comes back."""
        return Response(responses.start_task(begin(self)))


@RouteFacts(streams=True, cost="spend", replaced_by="/api/v1/conversations")
class StreamStartView(V1View):
    """The beginning of a conversation, told as it goes on."""

    permission = "conversations.create"

    @extend_schema(
        operation_id="v1_app_conversations_stream_start",
        tags=TAGS,
        request=shapes.V1StartRequestSerializer,
        responses={200: shapes.V1StartTaskSerializer(many=True)},
    )
    def post(self, request: Request) -> StreamingHttpResponse:
        """Start a conversation; the answer is an array to which every change of the start is added."""
        return StreamingHttpResponse(_changes(begin(self).pk), content_type="application/json")


def _changes(start_id: UUID) -> Iterator[bytes]:
    """The array's text, piece by piece, until the start has ended or for as long as such requests may last."""
    deadline, last, opening = time.monotonic() + STREAM_SECONDS, None, b"["
    while time.monotonic() < deadline:
        start = _starts().filter(pk=start_id).first()
        if start is None:
            break
        told = responses.start_task(start)
        if told != last:
            yield opening + orjson.dumps(told)
            last, opening = told, b",\n"
        if start.phase in (StartTask.Phase.READY, StartTask.Phase.ERROR):
            break
        time.sleep(STREAM_PAUSE)
    yield b"]" if last else b"[]"


@RouteFacts(replaced_by="/api/v1/conversations/{}/start-tasks")
class StartTaskSearchView(V1View):
    """Starts of conversations."""

    permission = "conversations.view"
    serializer_class = shapes.V1StartTaskPageSerializer

    @extend_schema(
        operation_id="v1_start_tasks_search",
        tags=TAGS,
        parameters=[shapes.StartPageQuery],
    )
    def get(self, request: Request) -> Response:
        """A page of the first starts of the caller's conversations."""
        query = self.query(shapes.StartPageQuery)
        rows, following = page_of(
            _asked(request, query),
            query,
            is_descending=query["sort_order"] == "CREATED_AT_DESC",
        )
        items = [responses.start_task(row) for row in rows]
        return Response({"items": items, "next_page_id": following})


@RouteFacts(replaced_by="/api/v1/conversations/{}/start-tasks")
class StartTaskCountView(V1View):
    """How many starts there are."""

    permission = "conversations.view"

    @extend_schema(
        operation_id="v1_start_tasks_count",
        tags=TAGS,
        parameters=[shapes.StartQuery],
        responses=OpenApiTypes.INT,
    )
    def get(self, request: Request) -> Response:
        """How many a search would find."""
        return Response(_asked(request, self.query(shapes.StartQuery)).count())


@RouteFacts(replaced_by="/api/v1/conversations/{}/start-tasks")
class StartTasksView(V1View):
    """Starts by id."""

    permission = "conversations.view"

    @extend_schema(
        operation_id="v1_start_tasks_list",
        tags=TAGS,
        parameters=[IDS],
        responses={(200, "application/json"): shapes.rows_or_null("V1StartTask")},
    )
    def get(self, request: ApiRequest) -> Response:
        """These starts in this order, null for what is not there."""
        wanted = ids_of(request, "ids")
        rows = _starts().filter(conversation__in=Conversation.objects.visible_to(request.user))
        by_id = {row.pk: responses.start_task(row) for row in rows.filter(pk__in=wanted)}
        return Response([by_id.get(pk) for pk in wanted])


def _starts() -> Any:
    return StartTask.objects.select_related("conversation")


def _asked(request: Request, query: dict[str, Any]) -> Any:
    """First starts only: a sandbox that wakes again is no conversation that begins."""
    earlier = StartTask.objects.filter(
        conversation=OuterRef("conversation"), created_at__lt=OuterRef("created_at")
    )
    rows = _starts().filter(conversation__in=Conversation.objects.visible_to(request.user))
    rows = filtered(rows.exclude(Exists(earlier)), query, "created_at__gte")
    wanted = query.get("conversation_id__eq")
    return rows.filter(conversation_id=wanted) if wanted else rows


# --- Beginning ------------------------------------------------------------------


def begin(view: V1View) -> StartTask:
    """Start what the body asks for; the start that clients then poll."""
    request = view.request
    body = view.body(shapes.V1StartRequestSerializer)
    for name, sentence in (
        ("processors", "Callback processors are not taken from clients; use webhooks."),
        ("system_message_suffix", "Put instructions into the first message."),
    ):
        if body.get(name):
            raise Unprocessable(f"{name}: {sentence}")
    if body.get("agent_type") == "plan":
        raise Unprocessable("agent_type: there is no planning agent on this server.")
    message = body.get("initial_message")
    text, images = shapes.spoken(message) if message else (None, [])
    if body.get("sandbox_id"):
        return _in_sandbox(request, body, text, images)
    parent = _parent(request, body.get("parent_conversation_id"))
    organization = parent.organization if parent else active_organization(request._request)  # noqa: SLF001
    require(request.user, organization.pk, "conversations.create")
    conversation = services.create_conversation(
        user=request.user,
        organization=organization,
        title=body.get("title") or None,
        repository=parent.repository if parent else _repository(body),
        model=body.get("llm_model") or (parent.model if parent else None),
        trigger=body.get("trigger") or _trigger(request),
        parent=parent,
        conversation_id=body.get("conversation_id"),
        message=text,
        images=images,
    )
    return _first_start(conversation)


def _trigger(request: Request) -> str:
    is_program = isinstance(request.auth, ApiKey)
    return Conversation.Trigger.API if is_program else Conversation.Trigger.GUI


def _parent(request: Request, wanted: UUID | None) -> Conversation | None:
    if wanted is None:
        return None
    rows = Conversation.objects.visible_to(request.user).select_related("organization")
    parent = rows.filter(pk=wanted).first()
    if parent is None:
        raise Http404
    return parent


def _repository(body: dict[str, Any]) -> dict[str, Any] | None:
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


def _in_sandbox(
    request: Request, body: dict[str, Any], text: str | None, images: list[str]
) -> StartTask:
    """Use a sandbox that ``POST /sandboxes`` made: the conversation that it holds, while that is empty."""
    rows = Conversation.objects.visible_to(request.user)
    conversation = rows.filter(sandbox_id=as_id(body["sandbox_id"], "sandbox_id")).first()
    if conversation is None:
        raise Http404
    require(request.user, conversation.organization_id, "conversations.steer")
    if conversation.events.filter(kind="UserMessage").exists():
        raise Unprocessable("sandbox_id: it holds a conversation; each has a sandbox of its own.")
    if body.get("title") or text:
        services.rename(
            conversation_id=conversation.pk, title=body.get("title") or services.make_title(text)
        )
    if text is not None:
        services.post_message(
            conversation_id=conversation.pk,
            text=text,
            images=images,
            message_id=f"first-{conversation.pk.hex}",
        )
    return _first_start(conversation)


def _first_start(conversation: Conversation) -> StartTask:
    start: StartTask = _starts().filter(conversation=conversation).order_by("created_at").first()
    return start
