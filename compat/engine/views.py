"""The engine's routes ``/api/conversations/{id}/…``, implemented with this server's event log and services."""

from typing import Any
from uuid import UUID, uuid4

from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.active import active_organization
from accounts.permissions import require
from accounts.requests import ApiRequest
from accounts.roles import STOP
from billing import services as billing
from compat.engine import options, serializers
from compat.reads import json_response, require_log
from compat.v1 import responses, translation
from compat.v1.app_conversations import get_parent
from compat.v1.base import MAX_IDS, Unprocessable, V1View, parse_id
from compat.v1.events import (
    fetch_by_ids,
    fetch_log_page,
    fetch_page,
    filter_events,
    is_plain,
)
from compat.v1.fields import check_fields
from compat.v1.serializers import (
    V1EventPageSerializer,
    V1MessageSerializer,
    V1SuccessSerializer,
    split_message,
)
from conversations import services
from conversations.api.authentication import HEADER
from conversations.log import lookups
from conversations.models import Conversation, Event
from conversations.services.keys import PREFIX
from lib.problems import Problem
from lib.routes import RouteFacts

TAGS = ["compat"]
ID = OpenApiParameter("id", str, OpenApiParameter.PATH)
SUCCESS = {"success": True}
ENGINE_FIELDS = (b'"agent"', b'"agent_settings"', b'"workspace"', b'"role"')
"""JSON keys that occur in POST bodies of the engine's clients and not in those of V0 clients."""


class AlreadyRunning(Problem):
    """The agent is already running."""

    status = 409
    code = "already-running"
    sentence = "The agent is already running."


def is_engine_request(request: HttpRequest) -> bool:
    """Return whether a request is meant for the engine's API. Call it only for paths that V0 has too.

    The key in the header ``X-Session-API-Key`` decides. With a conversation key, the result is True. With an API key,
    the result is True, except for a POST whose body contains none of ``ENGINE_FIELDS``. Otherwise it is False.
    """
    key = request.headers.get(HEADER, "")
    if key.startswith(PREFIX):
        return True
    if not key.startswith("oh_"):
        return False
    return request.method != "POST" or any(field in request.body for field in ENGINE_FIELDS)


def build_info(conversation: Conversation) -> dict[str, Any]:
    """Return a conversation as the engine's ``ConversationInfo``. Load it with ``select_related("sandbox")``."""
    usage = billing.get_usage([conversation.pk]).get(conversation.pk)
    has_open_messages = bool(responses.conversations_with_open_messages([conversation.pk]))
    return responses.serialize_runtime_info(
        conversation, usage, has_open_messages=has_open_messages
    )


def read_object(request: Request) -> dict[str, Any]:
    """Return the body of a request. Raise ``Unprocessable`` if it is not a JSON object."""
    if not isinstance(request.data, dict):
        raise Unprocessable("Send a JSON object.")
    return dict(request.data)


def parse_path_id(pk: str) -> UUID:
    """Return the id of a conversation in a URL. Raise ``Http404`` if it is malformed."""
    try:
        return parse_id(pk, "id")
    except Unprocessable as error:
        raise Http404 from error


class EngineView(V1View):
    """The base class of the views for one conversation. The id of the conversation is in the URL."""

    serializer_class: Any = V1SuccessSerializer

    def get_conversation(self, pk: str) -> Conversation:
        """Return the conversation with this id, after checking the permission that the view requires.

        Raise ``Http404`` if the id is malformed or the caller may not see the conversation.
        """
        conversation_id = parse_path_id(pk)
        rows = Conversation.objects.visible_to(self.request.user).select_related("sandbox")
        row: Conversation | None = rows.filter(pk=conversation_id).first()
        if row is None:
            raise Http404
        self.check_object_permissions(self.request, row)
        return row

    def visible_events(self, pk: str) -> Any:
        return translation.filter_for_v1(
            Event.objects.filter(conversation=self.get_conversation(pk))
        )


class EngineConversationsView(V1View):
    """The engine's route ``POST /api/conversations``.

    V0's ``ConversationsView`` serves the same path and calls this view for requests of the engine's clients.
    """

    permission = "conversations.create"

    def post(self, request: ApiRequest) -> Response:
        """Create a conversation (201). If one with the requested id exists, return it unchanged (200)."""
        asked = read_object(request)
        options.check_request(asked)
        policy, analyzer = asked.get("confirmation_policy"), asked.get("security_analyzer")
        start_options = services.collect_start_options(
            max_iterations=options.parse_iterations(asked.get("max_iterations")),
            tags=options.parse_tags(asked.get("tags")),
            tools=options.parse_tools(asked),
        )
        body = self.body(serializers.RuntimeNewConversationSerializer)
        requested_id: UUID | None = body.get("conversation_id")
        rows = Conversation.objects.visible_to(request.user).select_related("sandbox")
        # As in the engine, a repeated request has no effect: its first message is not posted again.
        if requested_id and (existing := rows.filter(pk=requested_id).first()):
            return Response(build_info(existing))
        parent = get_parent(request, body.get("parent_conversation_id"))
        organization = parent.organization if parent else active_organization(request._request)  # noqa: SLF001
        require(request.user, organization.pk, "conversations.create")
        message = body.get("initial_message")
        text, images = split_message(message) if message else (None, [])
        conversation = services.create_conversation(
            user=request.user,
            organization=organization,
            message=text,
            images=images,
            # Without a policy or an analyzer in the request, the caller's settings apply.
            confirmation_policy=None if policy is None else options.parse_policy(policy),
            security_analyzer=None if analyzer is None else options.parse_analyzer(analyzer),
            parent=parent,
            start_options=start_options,
            trigger=Conversation.Trigger.API,
            conversation_id=requested_id,
        )
        return Response(build_info(conversation), status=201)


class EngineConversationView(EngineView):
    """The engine's routes ``GET`` and ``PATCH /api/conversations/{id}``.

    V0's ``ConversationView`` serves the same path and calls this view for requests of the engine's clients.
    """

    permissions_by_action = {"get": "conversations.view", "patch": "conversations.steer"}  # noqa: RUF012 - read by HasPermission

    def get(self, request: Request, pk: str) -> Response:
        return Response(build_info(self.get_conversation(pk)))

    def patch(self, request: Request, pk: str) -> Response:
        """Change the title or the tags. Safe to repeat."""
        row = self.get_conversation(pk)
        asked = read_object(request)
        check_fields(asked, handled=("title", "tags"))
        tags = options.parse_tags(asked.get("tags"))
        body = self.body(serializers.RuntimeChangeConversationSerializer)
        with transaction.atomic():
            if body.get("title"):
                services.rename(conversation_id=row.pk, title=body["title"])
            if body.get("tags") is not None:
                services.set_value_tags(conversation_id=row.pk, tags=tags)
        return Response(SUCCESS)


class EngineEventsView(EngineView):
    """The engine's route ``/api/conversations/{id}/events``.

    V0's ``EventsView`` serves the same path and calls this view for requests of the engine's clients.
    """

    permissions_by_action = {"get": "conversations.view", "post": "conversations.steer"}  # noqa: RUF012 - read by HasPermission

    def get(self, request: Request, pk: str) -> Response:
        """Return the events with the requested ids, and null for each id without an event.

        The ids are ``id`` parameters or, as in the engine, a JSON list in the body of the GET request.
        """
        rows = self.visible_events(pk)
        ids = request.query_params.getlist("id") or request.data
        if not isinstance(ids, list) or len(ids) > MAX_IDS:
            raise Unprocessable(f"Send a list of at most {MAX_IDS} ids.")
        return Response(fetch_by_ids(rows, [str(event_id) for event_id in ids]))

    def post(self, request: ApiRequest, pk: str) -> Response:
        """Post a message to the agent. The message is stored before the response is sent.

        The agent starts to work on the message only if ``run`` is true.
        """
        row = self.get_conversation(pk)
        # Without effect, as in the engine (openhands-agent-server 1.58.2): the sender is the user of the key.
        check_fields(read_object(request), handled=("role", "content", "run", "sender"))
        body = self.body(V1MessageSerializer)
        text, images = split_message(body)
        services.post_message(
            conversation_id=row.pk,
            text=text,
            images=images,
            message_id=str(uuid4()),
            run=body["run"],
            by=request.user,
        )
        return Response(SUCCESS)


@RouteFacts(replaced_by="/api/v1/conversations/{}/events")
class EventSearchView(EngineView):
    """A search for a conversation's events."""

    permission = "conversations.view"
    serializer_class = V1EventPageSerializer

    @extend_schema(
        operation_id="runtime_events_search",
        tags=TAGS,
        parameters=[ID, serializers.EventSearchQuery],
    )
    def get(self, request: ApiRequest, pk: str) -> HttpResponse:
        """Return a page of events, oldest first by default."""
        query = self.query(serializers.EventSearchQuery)
        query["kind__eq"] = query.pop("kind", None)
        if is_plain(query) and lookups.can_look_up(request.user):
            conversation_id = parse_path_id(pk)
            require_log(request, conversation_id)
            page = fetch_log_page(conversation_id, query)
        else:
            page = fetch_page(filter_events(self.visible_events(pk), query), query)
        return json_response(page)


@RouteFacts(replaced_by="/api/v1/conversations/{}")
class EventCountView(EngineView):
    """The route that counts a conversation's events."""

    permission = "conversations.view"

    @extend_schema(
        operation_id="runtime_events_count",
        tags=TAGS,
        parameters=[ID, serializers.EventSearchQuery],
        responses=OpenApiTypes.INT,
    )
    def get(self, request: Request, pk: str) -> Response:
        """Return the number of events that a search would return."""
        query = self.query(serializers.EventSearchQuery)
        query["kind__eq"] = query.pop("kind", None)
        return Response(filter_events(self.visible_events(pk), query).count())


@RouteFacts(cost="spend", replaced_by="/api/v1/conversations/{}/confirmation")
class AnswerView(EngineView):
    """The route that accepts or rejects the actions for which the agent asks confirmation."""

    permission = "conversations.steer"

    @extend_schema(
        operation_id="runtime_respond_to_confirmation",
        tags=TAGS,
        parameters=[ID],
        request=serializers.RuntimeAnswerSerializer,
    )
    def post(self, request: ApiRequest, pk: str) -> Response:
        """Accept or reject the agent's pending actions. Respond with 409 if no confirmation is pending."""
        row = self.get_conversation(pk)
        check_fields(read_object(request), handled=("accept", "reason"))
        body = self.body(serializers.RuntimeAnswerSerializer)
        services.answer_confirmation(
            conversation_id=row.pk,
            accept=body["accept"],
            reason=body["reason"],
            by=request.user,
        )
        return Response(SUCCESS)


@RouteFacts(cost="spend", replaced_by="/api/v1/conversations/{}/resume")
class RunView(EngineView):
    """The route that starts an agent's run."""

    permission = "conversations.steer"

    @extend_schema(operation_id="runtime_run", tags=TAGS, parameters=[ID], request=None)
    def post(self, request: ApiRequest, pk: str) -> Response:
        """Deliver the messages that were posted without ``run``, or resume a stopped agent.

        Respond with 409 if the agent is already running.
        """
        # An engine that waits for a confirmation treats this call as an approval. This server does not: actions are
        # approved only through ``AnswerView``.
        row = self.get_conversation(pk)
        if services.send_held_messages(conversation_id=row.pk, by=request.user):
            return Response(SUCCESS)
        if row.execution_status == Conversation.ExecutionStatus.RUNNING:
            raise AlreadyRunning
        services.resume(conversation_id=row.pk, by=request.user)
        return Response(SUCCESS)


@RouteFacts(replaced_by="/api/v1/conversations/{}/interrupt")
class PauseView(EngineView):
    """The route that stops an agent's run."""

    permission = "conversations.steer"
    object_permission = STOP

    @extend_schema(operation_id="runtime_pause", tags=TAGS, parameters=[ID], request=None)
    def post(self, request: ApiRequest, pk: str) -> Response:
        """Stop the agent, including its current tool or model call. Safe to repeat."""
        # The engine's own pause lets the current tool call finish. An interruption ends it.
        services.interrupt(conversation_id=self.get_conversation(pk).pk, by=request.user)
        return Response(SUCCESS)


@RouteFacts(replaced_by="/api/v1/conversations/{}/interrupt")
class InterruptView(PauseView):
    """The route that interrupts an agent's run. On this server it does the same as the route that stops the run."""

    @extend_schema(operation_id="runtime_interrupt", tags=TAGS, parameters=[ID], request=None)
    def post(self, request: ApiRequest, pk: str) -> Response:
        """Stop the agent, including its current tool or model call. Safe to repeat."""
        return super().post(request, pk)
