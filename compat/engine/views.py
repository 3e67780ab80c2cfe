"""``/api/conversations/{id}/…`` as the engine serves it, over this server's own log and services."""

from typing import Any
from uuid import UUID, uuid4

from django.http import Http404, HttpRequest
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.active import active_organization
from accounts.permissions import require
from accounts.requests import ApiRequest
from billing import services as billing
from compat.engine import shapes
from compat.v1 import responses, translation
from compat.v1.base import MAX_IDS, Unprocessable, V1View, as_id
from compat.v1.events import by_ids, matching, page
from compat.v1.shapes import V1EventPageSerializer, V1MessageSerializer, V1SuccessSerializer, spoken
from conversations import services
from conversations.api.authentication import HEADER
from conversations.models import Conversation, Event
from conversations.services.keys import PREFIX
from lib.problems import Problem
from lib.routes import RouteFacts

TAGS = ["compat"]
ID = OpenApiParameter("id", str, OpenApiParameter.PATH)
DONE = {"success": True}
ENGINE_WORDS = (b'"agent"', b'"agent_settings"', b'"workspace"', b'"role"')


class AlreadyRunning(Problem):
    """The agent is at work."""

    status = 409
    code = "already-running"
    sentence = "The agent is running already."


def speaks_engine(request: HttpRequest) -> bool:
    """Whether a call of an address that two protocols share is meant in the engine's.

    Who comes with a conversation key is its client. With an API key in the header of such keys, the body
    tells, and without a body the header does.
    """
    key = request.headers.get(HEADER, "")
    if key.startswith(PREFIX):
        return True
    if not key.startswith("oh_"):
        return False
    return request.method != "POST" or any(word in request.body for word in ENGINE_WORDS)


def info_of(conversation: Conversation) -> dict[str, Any]:
    """The engine's record of a conversation (with ``sandbox`` loaded), as of now."""
    usage = billing.usage_of([conversation.pk]).get(conversation.pk)
    is_asked = bool(responses.with_open_messages([conversation.pk]))
    return responses.runtime_info(conversation, usage, is_asked=is_asked)


class EngineView(V1View):
    """A call about one conversation, named in the address."""

    serializer_class: Any = V1SuccessSerializer

    def the_one(self, pk: str) -> Conversation:
        """The conversation; 404 for what the caller may not see, 403 for what the caller may not do."""
        try:
            found_id = as_id(pk, "id")
        except Unprocessable as error:
            raise Http404 from error
        rows = Conversation.objects.visible_to(self.request.user).select_related("sandbox")
        row: Conversation | None = rows.filter(pk=found_id).first()
        if row is None:
            raise Http404
        self.check_object_permissions(self.request, row)
        return row

    def events_of(self, pk: str) -> Any:
        return translation.told(Event.objects.filter(conversation=self.the_one(pk)))


class EngineConversationsView(V1View):
    """``POST /api/conversations`` in the engine's form. Reached by way of the V0 route."""

    permission = "conversations.create"

    def post(self, request: ApiRequest) -> Response:
        """Create a conversation, 201, or give the one of that id, 200, as it is."""
        body = self.body(shapes.RuntimeNewConversationSerializer)
        wanted: UUID | None = body.get("conversation_id")
        rows = Conversation.objects.visible_to(request.user).select_related("sandbox")
        if wanted and (earlier := rows.filter(pk=wanted).first()):
            return Response(info_of(earlier))
        organization = active_organization(request._request)  # noqa: SLF001
        require(request.user, organization.pk, "conversations.create")
        message = body.get("initial_message")
        text, images = spoken(message) if message else (None, [])
        made = services.create_conversation(
            user=request.user,
            organization=organization,
            message=text,
            images=images,
            confirmation_policy=shapes.policy_of(body),
            trigger=Conversation.Trigger.API,
            conversation_id=wanted,
        )
        return Response(info_of(made), status=201)


class EngineConversationView(EngineView):
    """``GET /api/conversations/{id}`` in the engine's form. Reached by way of the V0 route."""

    permission = "conversations.view"

    def get(self, request: Request, pk: str) -> Response:
        return Response(info_of(self.the_one(pk)))


class EngineEventsView(EngineView):
    """``/api/conversations/{id}/events`` in the engine's form. Reached by way of the V0 route."""

    permissions_by_action = {"get": "conversations.view", "post": "conversations.steer"}  # noqa: RUF012 - read by HasPermission

    def get(self, request: Request, pk: str) -> Response:
        """Events by id: a list of ids as the body, as the engine has it, or as ``id`` parameters."""
        rows = self.events_of(pk)
        ids = request.query_params.getlist("id") or request.data
        if not isinstance(ids, list) or len(ids) > MAX_IDS:
            raise Unprocessable(f"Give at most {MAX_IDS} ids as a list.")
        return Response(by_ids(rows, [str(one) for one in ids]))

    def post(self, request: Request, pk: str) -> Response:
        """Say something; it is in the log when this answers. Without ``run`` the agent is not set to work."""
        row = self.the_one(pk)
        body = self.body(V1MessageSerializer)
        text, images = spoken(body)
        services.post_message(
            conversation_id=row.pk,
            text=text,
            images=images,
            message_id=str(uuid4()),
            run=body["run"],
        )
        return Response(DONE)


@RouteFacts(replaced_by="/api/v1/conversations/{}/events")
class EventSearchView(EngineView):
    """A conversation's events."""

    permission = "conversations.view"
    serializer_class = V1EventPageSerializer

    @extend_schema(
        operation_id="runtime_events_search", tags=TAGS, parameters=[ID, shapes.EventSearchQuery]
    )
    def get(self, request: Request, pk: str) -> Response:
        """A page of them, oldest first unless asked otherwise."""
        query = self.query(shapes.EventSearchQuery)
        query["kind__eq"] = query.pop("kind", None)
        return Response(page(matching(self.events_of(pk), query), query))


@RouteFacts(replaced_by="/api/v1/conversations/{}")
class EventCountView(EngineView):
    """How many events there are."""

    permission = "conversations.view"

    @extend_schema(
        operation_id="runtime_events_count",
        tags=TAGS,
        parameters=[ID, shapes.EventSearchQuery],
        responses=OpenApiTypes.INT,
    )
    def get(self, request: Request, pk: str) -> Response:
        """How many a search would find."""
        query = self.query(shapes.EventSearchQuery)
        query["kind__eq"] = query.pop("kind", None)
        return Response(matching(self.events_of(pk), query).count())


@RouteFacts(cost="spend", replaced_by="/api/v1/conversations/{}/confirmation")
class AnswerView(EngineView):
    """Yes or no."""

    permission = "conversations.steer"

    @extend_schema(
        operation_id="runtime_respond_to_confirmation",
        tags=TAGS,
        parameters=[ID],
        request=shapes.RuntimeAnswerSerializer,
    )
    def post(self, request: Request, pk: str) -> Response:
        """Answer the agent's open question; 409 when it is not open any more."""
        row = self.the_one(pk)
        body = self.body(shapes.RuntimeAnswerSerializer)
        services.answer_confirmation(
            conversation_id=row.pk, accept=body["accept"], reason=body["reason"]
        )
        return Response(DONE)


@RouteFacts(cost="spend", replaced_by="/api/v1/conversations/{}/resume")
class RunView(EngineView):
    """The word to go on."""

    permission = "conversations.steer"

    @extend_schema(operation_id="runtime_run", tags=TAGS, parameters=[ID], request=None)
    def post(self, request: Request, pk: str) -> Response:
        """Send what was said without ``run``, or let a stopped agent go on. It is no yes to a question."""
        row = self.the_one(pk)
        if services.run_held(conversation_id=row.pk):
            return Response(DONE)
        if row.execution_status == Conversation.ExecutionStatus.RUNNING:
            raise AlreadyRunning
        services.resume(conversation_id=row.pk)
        return Response(DONE)


@RouteFacts(replaced_by="/api/v1/conversations/{}/interrupt")
class PauseView(EngineView):
    """The word to stop."""

    permission = "conversations.steer"

    @extend_schema(operation_id="runtime_pause", tags=TAGS, parameters=[ID], request=None)
    def post(self, request: Request, pk: str) -> Response:
        """Stop the agent now. Safe to repeat."""
        services.interrupt(conversation_id=self.the_one(pk).pk)
        return Response(DONE)


@RouteFacts(replaced_by="/api/v1/conversations/{}/interrupt")
class InterruptView(PauseView):
    """Pausing, under another name of the route."""

    @extend_schema(operation_id="runtime_interrupt", tags=TAGS, parameters=[ID], request=None)
    def post(self, request: Request, pk: str) -> Response:
        """Stop the agent now. Safe to repeat."""
        return super().post(request, pk)
