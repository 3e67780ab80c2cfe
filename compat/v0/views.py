"""V0's REST routes for conversations: translate the request, call one service or queryset, translate the response.

V0 is OpenHands' older protocol. OpenHands' own server has these faults, which this module avoids: its list skips and
repeats conversations, because it merges two lists and filters after cutting the page; some routes do not check the
owner; and a conversation that does not exist is returned as `null`.
"""

from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID, uuid4

from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers as fields
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.active import active_organization
from accounts.permissions import require, require_on
from accounts.requests import ApiRequest
from accounts.roles import STOP
from compat.engine import (
    EngineConversationsView,
    EngineConversationView,
    EngineEventsView,
    is_engine_request,
)
from compat.reads import get_summary, json_response, page_summaries, require_log
from compat.v0 import commands, event_pages, page_encoding, prompts, serializers
from compat.v0.responses import map_status, serialize_conversation, serialize_conversations
from compat.v0.serializers import Unprocessable, validate
from compat.v0.values import loads
from conversations import services
from conversations.api.authentication import WITH_CONVERSATION_KEY
from conversations.api.v1.serializers import RepositorySerializer
from conversations.log import lookups
from conversations.log.summaries import list_summaries
from conversations.models import Conversation
from conversations.services.sandboxes import wake
from lib import pages
from lib.routes import NOTHING, RouteFacts

VIEW, STEER = "conversations.view", "conversations.steer"
PAGE_LIMIT = 100
Method = TypeVar("Method", bound=Callable[..., Any])
SUCCESS = inline_serializer("V0Success", {"success": fields.BooleanField()})


class InvalidLimit(Unprocessable):
    """The page size is out of range. The status and the text are those of OpenHands' own server."""

    status = 400
    sentence = "Invalid limit"


class Unsupported(Unprocessable):
    """The request uses a field of V0 that this server does not support."""

    code = "unsupported"


def schema(name: str, **options: Any) -> Callable[[Method], Method]:
    """Return a decorator that describes a V0 route in the OpenAPI document."""
    return extend_schema(operation_id=f"v0_{name}", tags=["compat"], **options)


class V0View(GenericAPIView[Any]):
    """The base class of V0 routes, which accept API keys, conversation keys and the session cookie."""

    authentication_classes = WITH_CONVERSATION_KEY
    pagination_class = None
    serializer_class = None
    queryset = Conversation.objects.none()
    engine: Any = None
    """The view of the engine's API with the same path, or None."""

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        # Clients of the engine's API use the same paths, because this server takes the place of the engine's host.
        if hasattr(self.engine, request.method.lower()) and self.is_for_engine(request):
            texts = {name: str(value) for name, value in kwargs.items()}
            return self.engine.as_view()(request, *args, **texts)
        return super().dispatch(request, *args, **kwargs)

    def is_for_engine(self, request: HttpRequest) -> bool:
        """Return whether a request is meant for the engine's API and not for V0."""
        return is_engine_request(request)

    def find(self, pk: UUID) -> Conversation:
        """Return the conversation with this id, after checking the permission that the view requires.

        Raise ``Http404`` if the caller may not see the conversation.
        """
        rows = Conversation.objects.visible_to(self.request.user).select_related("sandbox")
        row = rows.filter(pk=pk).first()
        if row is None:
            raise Http404
        self.check_object_permissions(self.request, row)
        return row


def _state_response(conversation: Conversation, message: str | None = None) -> Response:
    return Response(
        {
            "status": "ok",
            "conversation_id": conversation.pk.hex,
            "conversation_status": map_status(conversation),
            "message": message,
        }
    )


# --- Conversations ---------------------------------------------------------


@RouteFacts(cost="spend", replaced_by="/api/v1/conversations")
class ConversationsView(V0View):
    """The conversations of both protocols, V0 and V1."""

    engine = EngineConversationsView
    permissions_by_action = {"get": VIEW, "post": "conversations.create"}  # noqa: RUF012

    @schema(
        "conversations_list",
        parameters=[serializers.V0ListQuery],
        responses=serializers.V0ConversationsSerializer,
    )
    def get(self, request: ApiRequest) -> HttpResponse:
        """Return a page of conversations, newest first. For the next page, send `next_page_id` as `page_id`."""
        return json_response(_list_conversations(request))

    @schema(
        "conversations_create",
        request=serializers.V0ConversationCreateSerializer,
        responses=serializers.V0ConversationResponseSerializer,
    )
    def post(self, request: ApiRequest) -> Response:
        """Start a conversation."""
        body = validate(serializers.V0ConversationCreateSerializer, request.data)
        organization = active_organization(request)
        require(request.user, organization.pk, "conversations.create")
        for name in ("replay_json", "mcp_config"):
            if body.get(name):
                raise Unsupported(f"This server does not support {name} for new conversations.")
        repository = _parse_repository(body)
        if body.get("selected_branch") and repository is None:
            raise Unsupported("selected_branch: Send the `repository` too.")
        conversation = services.create_conversation(
            user=request.user,
            organization=organization,
            message=_build_first_message(body),
            images=commands.validate_images(body.get("image_urls")),
            repository=repository,
            trigger=_choose_trigger(request, body),
            wire_version=Conversation.WireVersion.V0,
        )
        return _state_response(conversation)


def _build_first_message(body: dict[str, Any]) -> str | None:
    message = body.get("initial_user_msg") or ""
    if not message and (task := body.get("suggested_task")):
        message = prompts.build_task_message(task)
    if not message and (microagent := body.get("create_microagent")):
        message = prompts.build_microagent_message(microagent)
    return (
        prompts.prepend_instructions(message, body.get("conversation_instructions") or "") or None
    )


def _parse_repository(body: dict[str, Any]) -> dict[str, Any] | None:
    task, microagent = body.get("suggested_task") or {}, body.get("create_microagent") or {}
    name = body.get("repository") or task.get("repo") or microagent.get("repo")
    if not name:
        return None
    provider = (
        body.get("git_provider") or task.get("git_provider") or microagent.get("git_provider")
    )
    branch = body.get("selected_branch")
    repository = {"provider": provider or "github", "full_name": name}
    return validate(RepositorySerializer, repository | ({"branch": branch} if branch else {}))


def _choose_trigger(request: Request, body: dict[str, Any]) -> str:
    # As in OpenHands' own server, a key decides before anything in the body.
    if request.auth is not None:
        return Conversation.Trigger.API
    if body.get("create_microagent"):
        return Conversation.Trigger.MICROAGENT_MANAGEMENT
    if body.get("suggested_task"):
        return Conversation.Trigger.SUGGESTED_TASK
    return Conversation.Trigger.GUI


def _list_conversations(request: ApiRequest, **filters: Any) -> dict[str, Any]:
    """Return the page of conversations that a request describes. Runs one query, and with filters two."""
    query = validate(serializers.V0ListQuery, request.query_params.dict())
    try:
        after = pages.parse_cursor(query["page_id"]) if query.get("page_id") else None
    except pages.MalformedCursor as error:
        raise Unprocessable("page_id: Send the `next_page_id` of an earlier page.") from error
    if repository := query.get("selected_repository"):
        filters["repository__full_name"] = repository
    if trigger := query.get("conversation_trigger"):
        filters["trigger"] = trigger
    limit, with_children = query["limit"], query.get("include_sub_conversations")
    if filters or with_children or not lookups.can_look_up(request.user):
        rows = Conversation.objects.visible_to(request.user).filter(**filters)
        rows = rows if with_children else rows.filter(parent=None)
        page, next_page_id = page_summaries(request.user, rows, limit=limit, after=after)
    else:
        # One more row than the page has shows whether there is a next page.
        found = list_summaries(request.user, limit=limit + 1, after=after)
        page, next_page_id = pages.cut_page(found, limit, lambda row: row.position)
    return {"results": serialize_conversations(page, request.user), "next_page_id": next_page_id}


@RouteFacts(replaced_by="/api/v1/conversations")
class MicroagentConversationsView(V0View):
    """Conversations that create microagents for a repository."""

    permission = VIEW

    @schema(
        "microagent_conversations",
        parameters=[serializers.V0ListQuery],
        responses=serializers.V0ConversationsSerializer,
    )
    def get(self, request: ApiRequest) -> HttpResponse:
        """Return a page of conversations, newest first."""
        trigger = Conversation.Trigger.MICROAGENT_MANAGEMENT
        return json_response(_list_conversations(request, trigger=trigger))


@RouteFacts(replaced_by="/api/v1/conversations/{}")
class ConversationView(V0View):
    """One conversation."""

    engine = EngineConversationView
    permissions_by_action = {  # noqa: RUF012
        "get": VIEW,
        "patch": STEER,
        "delete": "conversations.delete",
    }

    def is_for_engine(self, request: HttpRequest) -> bool:
        """Return whether a request has the form of the engine's API. V0 cannot change tags; a title alone is V0."""
        if request.method == "PATCH" and b'"tags"' not in request.body:
            return False
        return is_engine_request(request)

    @schema("conversation", responses=serializers.V0ConversationSerializer)
    def get(self, request: ApiRequest, pk: UUID) -> HttpResponse:
        """Return the conversation's record."""
        return json_response(serialize_conversation(get_summary(request, pk), request.user))

    @schema(
        "conversation_rename",
        request=serializers.V0TitleSerializer,
        responses=OpenApiTypes.BOOL,
    )
    def patch(self, request: Request, pk: UUID) -> Response:
        """Change the title."""
        conversation = self.find(pk)
        title = validate(serializers.V0TitleSerializer, request.data)["title"]
        services.rename(conversation_id=conversation.pk, title=title)
        return Response(True)

    @schema("conversation_delete", responses={200: OpenApiTypes.BOOL})
    def delete(self, request: Request, pk: UUID) -> Response:
        """Delete the conversation permanently, with its sandbox, events and files."""
        services.delete_conversation(conversation_id=self.find(pk).pk)
        return Response(True)


# --- Steering -------------------------------------------------------------------------


@RouteFacts(cost="spend", replaced_by="/api/v1/conversations/{}/resume")
class StartView(V0View):
    """The route that starts a conversation's sandbox."""

    permission = STEER

    @schema(
        "conversation_start",
        request=serializers.V0StartSerializer,
        responses=serializers.V0ConversationResponseSerializer,
    )
    def post(self, request: ApiRequest, pk: UUID) -> Response:
        """Start the sandbox. A stopped agent continues only after a message or the state `running`."""
        conversation = self.find(pk)
        validate(serializers.V0StartSerializer, request.data or {})
        return _state_response(wake(conversation_id=conversation.pk, by=request.user))


@RouteFacts(replaced_by="/api/v1/conversations/{}/interrupt")
class StopView(V0View):
    """The route that stops a conversation's sandbox."""

    permission = STEER
    object_permission = STOP

    @schema(
        "conversation_stop",
        request=None,
        responses=serializers.V0ConversationResponseSerializer,
    )
    def post(self, request: Request, pk: UUID) -> Response:
        """Stop the agent and pause the sandbox. A message or a start request resumes the sandbox."""
        conversation = self.find(pk)
        services.pause_sandbox(conversation_id=conversation.pk)
        conversation.refresh_from_db()
        return _state_response(conversation)


@RouteFacts(cost="spend", replaced_by="/api/v1/conversations/{}/messages")
class MessageView(V0View):
    """Text messages to the agent."""

    permission = STEER

    @schema("conversation_message", request=serializers.V0MessageSerializer, responses=SUCCESS)
    def post(self, request: ApiRequest, pk: UUID) -> Response:
        """Send a message to the agent."""
        conversation = self.find(pk)
        message = validate(serializers.V0MessageSerializer, request.data)["message"]
        services.post_message(
            conversation_id=conversation.pk,
            text=message,
            message_id=str(uuid4()),
            by=request.user,
        )
        return Response({"success": True})


@RouteFacts(cost="spend", replaced_by="/api/v1/conversations/{}/events")
class EventsView(V0View):
    """A conversation's log as V0 events."""

    engine = EngineEventsView

    def is_for_engine(self, request: HttpRequest) -> bool:
        """Return whether a request has the form of the engine's API.

        The web client sends conversation keys over V0 too, so the key alone does not decide. The engine's clients
        read events by `id` parameters or by a list in the body, and post messages without V0's `action`.
        """
        if not is_engine_request(request):
            return False
        body = loads(request.body.decode("utf-8", "replace"))
        if request.method == "GET":
            # ``loads`` returns an empty dict for a list, so a body with an empty result is the engine's list of ids.
            return "id" in request.GET or bool(request.body and not body)
        return "action" not in body

    permissions_by_action = {"get": VIEW, "post": STEER}  # noqa: RUF012
    # The post method checks the action's own permission on the conversation.
    object_permission = VIEW

    @schema(
        "conversation_events",
        parameters=[serializers.V0EventQuery],
        responses=serializers.V0EventsSerializer,
    )
    def get(self, request: ApiRequest, pk: UUID) -> HttpResponse:
        """Return a page of events, even while the sandbox is stopped."""
        if lookups.can_look_up(request.user):
            require_log(request, pk)
        else:
            self.find(pk)
        query = validate(serializers.V0EventQuery, _read_event_query(request))
        if not 0 <= query["limit"] <= PAGE_LIMIT:
            raise InvalidLimit
        body = page_encoding.encode_page(*event_pages.fetch_page(pk, query))
        return HttpResponse(body, content_type="application/json")

    @schema("conversation_event_add", request=OpenApiTypes.OBJECT, responses=SUCCESS)
    def post(self, request: ApiRequest, pk: UUID) -> Response:
        """Execute a V0 action: send a message, or change the agent's state."""
        conversation = self.find(pk)
        require_on(request.user, conversation, commands.find_permission(request.data))
        commands.execute(conversation_id=conversation.pk, event=request.data, by=request.user)
        return Response({"success": True})


def _read_event_query(request: Request) -> dict[str, Any]:
    """Return the filters in the query string and in the body of the GET request.

    OpenHands' own server reads the filters only from the body. Here the query string takes precedence.
    """
    lists = ("include_types", "exclude_types")
    query: dict[str, Any] = {k: v for k, v in request.query_params.items() if k not in lists}
    for name in lists:
        if values := request.query_params.getlist(name):
            query[name] = [kind for value in values for kind in value.split(",") if kind]
    body = request.data if request.headers.get("Content-Length", "0") not in ("", "0") else {}
    return (body if isinstance(body, dict) else {}) | query


@RouteFacts(streams=True, replaced_by="/api/v1/conversations/{}/trajectory")
class TrajectoryView(V0View):
    """A conversation's whole log."""

    permission = VIEW

    @schema(
        "conversation_trajectory",
        responses=inline_serializer(
            "V0Trajectory", {"trajectory": fields.ListField(child=fields.DictField())}
        ),
    )
    def get(self, request: Request, pk: UUID) -> StreamingHttpResponse:
        """Stream all events. Hidden events and the screenshots in events are left out."""
        conversation = self.find(pk)
        return StreamingHttpResponse(
            event_pages.stream_trajectory(conversation.pk), content_type="application/json"
        )


@RouteFacts(replaced_by=NOTHING)
class RememberPromptView(V0View):
    """A prompt that asks the agent to record the lessons of a conversation."""

    permission = VIEW

    @schema(
        "conversation_remember_prompt",
        parameters=[OpenApiParameter("event_id", int, required=True)],
        responses=inline_serializer(
            "V0RememberPrompt", {"status": fields.CharField(), "prompt": fields.CharField()}
        ),
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """Return a prompt that quotes the last messages up to and including this event. No model is called."""
        conversation = self.find(pk)
        query_serializer = type(
            "Query",
            (fields.Serializer,),
            {"event_id": fields.IntegerField(min_value=0, max_value=2**62)},
        )
        last = validate(query_serializer, request.query_params.dict())["event_id"]
        events = [
            event
            for event in event_pages.walk(conversation.pk, max_seq=last)
            if event.get("action") in ("message", "finish")
        ]
        return Response({"status": "success", "prompt": prompts.build_remember_prompt(events)})


# --- The runtime ---------------------------------------------------------------------


@RouteFacts(replaced_by="/api/v1/conversations/{}")
class ConfigView(V0View):
    """The ids of a conversation's runtime and session."""

    permission = VIEW

    @schema(
        "conversation_config",
        responses=inline_serializer(
            "V0Config",
            {
                "runtime_id": fields.CharField(allow_null=True),
                "session_id": fields.CharField(),
            },
        ),
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """Return the sandbox's id as `runtime_id`, and the conversation's id as `session_id`."""
        conversation = self.find(pk)
        sandbox = conversation.sandbox_id.hex if conversation.sandbox_id else None
        return Response({"runtime_id": sandbox, "session_id": conversation.pk.hex})


@RouteFacts(replaced_by=NOTHING)
class VSCodeView(V0View):
    """The URL of an editor in the sandbox."""

    permission = VIEW

    @schema(
        "conversation_vscode_url",
        responses=inline_serializer(
            "V0VSCodeUrl", {"vscode_url": fields.CharField(allow_null=True)}
        ),
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """Return null: this server's sandboxes run no editor."""
        self.find(pk)
        return Response({"vscode_url": None})


@RouteFacts(replaced_by=NOTHING)
class WebHostsView(V0View):
    """The URLs of web servers in the sandbox."""

    permission = VIEW

    @schema(
        "conversation_web_hosts",
        responses=inline_serializer("V0WebHosts", {"hosts": fields.DictField()}),
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """Return an empty object: this server does not expose the ports of sandboxes."""
        self.find(pk)
        return Response({"hosts": {}})


@RouteFacts(replaced_by=NOTHING)
class MicroagentsView(V0View):
    """The microagents that a conversation loaded."""

    permission = VIEW

    @schema(
        "conversation_microagents",
        responses=inline_serializer(
            "V0Microagents", {"microagents": fields.ListField(child=fields.DictField())}
        ),
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """Return an empty list: this server starts the agent without microagents."""
        self.find(pk)
        return Response({"microagents": []})


@RouteFacts(replaced_by=NOTHING)
class ExperimentView(V0View):
    """The settings of OpenHands' experiments."""

    permission = STEER

    @schema(
        "conversation_exp_config",
        request=serializers.V0ExperimentSerializer,
        responses=OpenApiTypes.BOOL,
    )
    def post(self, request: Request, pk: UUID) -> Response:
        """Return false: this server runs no experiments, and stores nothing."""
        self.find(pk)
        validate(serializers.V0ExperimentSerializer, request.data or {})
        return Response(False)
