"""V0's conversations over REST: translate, one service call or queryset, translate back.

Mended on the way: one list with one cursor for both kinds of conversations, filters before the page is cut, rows
complete, ownership asked everywhere, what one may not see is 404, titles and events written once.
"""

from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID, uuid4

from django.http import Http404, HttpRequest, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers as fields
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.active import active_organization
from accounts.permissions import require
from accounts.requests import ApiRequest
from compat.engine import (
    EngineConversationsView,
    EngineConversationView,
    EngineEventsView,
    speaks_engine,
)
from compat.v0 import commands, event_pages, prompts, serializers
from compat.v0.responses import info_of, infos_of, status_of
from compat.v0.serializers import Unprocessable, checked
from compat.v0.values import loads
from conversations import services
from conversations.api.authentication import WITH_CONVERSATION_KEY
from conversations.api.v1.serializers import RepositorySerializer
from conversations.models import Conversation
from conversations.services.sandboxes import wake
from lib import pages
from lib.routes import NOTHING, RouteFacts

VIEW, STEER = "conversations.view", "conversations.steer"
PAGE_LIMIT = 100
Method = TypeVar("Method", bound=Callable[..., Any])
SUCCESS = inline_serializer("V0Success", {"success": fields.BooleanField()})


class InvalidLimit(Unprocessable):
    """V0's own answer to a page size that it does not take."""

    status = 400
    sentence = "Invalid limit"


class Unsupported(Unprocessable):
    """Something that V0's request may hold and this server does not do."""

    code = "unsupported"


def schema(name: str, **options: Any) -> Callable[[Method], Method]:
    """How the OpenAPI document tells a route of V0."""
    return extend_schema(operation_id=f"v0_{name}", tags=["compat"], **options)


class V0View(GenericAPIView[Any]):
    """A route of V0; API keys, conversation keys and cookies open it."""

    authentication_classes = WITH_CONVERSATION_KEY
    pagination_class = None
    serializer_class = None
    queryset = Conversation.objects.none()
    engine: Any = None
    """The view of the engine's own API at this address, for those who speak that."""

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        if hasattr(self.engine, request.method.lower()) and self.is_for_engine(request):
            named = {name: str(value) for name, value in kwargs.items()}
            return self.engine.as_view()(request, *args, **named)
        return super().dispatch(request, *args, **kwargs)

    def is_for_engine(self, request: HttpRequest) -> bool:
        """Whether this call of an address that two protocols share is meant in the engine's."""
        return speaks_engine(request)

    def find(self, pk: UUID) -> Conversation:
        """The conversation, if the caller may do with it what this route does; else 404, or 403."""
        rows = Conversation.objects.visible_to(self.request.user).select_related("sandbox")
        found = rows.filter(pk=pk).first()
        if found is None:
            raise Http404
        self.check_object_permissions(self.request, found)
        return found


def _answer(conversation: Conversation, message: str | None = None) -> Response:
    return Response(
        {
            "status": "ok",
            "conversation_id": conversation.pk.hex,
            "conversation_status": status_of(conversation),
            "message": message,
        }
    )


# --- The list and its members ---------------------------------------------------------


@RouteFacts(cost="spend", replaced_by="/api/v1/conversations")
class ConversationsView(V0View):
    """Conversations of both protocols."""

    engine = EngineConversationsView
    permissions_by_action = {"get": VIEW, "post": "conversations.create"}  # noqa: RUF012

    @schema(
        "conversations_list",
        parameters=[serializers.V0ListQuery],
        responses=serializers.V0ConversationsSerializer,
    )
    def get(self, request: ApiRequest) -> Response:
        """Newest first; `next_page_id` of one page is `page_id` of the next."""
        wanted = checked(serializers.V0ListQuery, request.query_params.dict())
        return Response(_page(request, wanted))

    @schema(
        "conversations_create",
        request=serializers.V0ConversationCreateSerializer,
        responses=serializers.V0ConversationResponseSerializer,
    )
    def post(self, request: ApiRequest) -> Response:
        """Start a conversation."""
        body = checked(serializers.V0ConversationCreateSerializer, request.data)
        organization = active_organization(request)
        require(request.user, organization.pk, "conversations.create")
        for name in ("replay_json", "mcp_config"):
            if body.get(name):
                raise Unsupported(f"{name} is not supported when a conversation is created.")
        conversation = services.create_conversation(
            user=request.user,
            organization=organization,
            message=_first_message(body),
            images=commands.checked_images(body.get("image_urls")),
            repository=_repository(body),
            trigger=_trigger(request, body),
            wire_version=Conversation.WireVersion.V0,
        )
        return _answer(conversation)


def _first_message(body: dict[str, Any]) -> str | None:
    message = body.get("initial_user_msg") or ""
    if not message and (task := body.get("suggested_task")):
        message = prompts.of_task(task)
    if not message and (wanted := body.get("create_microagent")):
        message = prompts.of_microagent(wanted)
    return prompts.with_instructions(message, body.get("conversation_instructions") or "") or None


def _repository(body: dict[str, Any]) -> dict[str, Any] | None:
    task, microagent = body.get("suggested_task") or {}, body.get("create_microagent") or {}
    name = body.get("repository") or task.get("repo") or microagent.get("repo")
    if not name:
        return None
    provider = (
        body.get("git_provider") or task.get("git_provider") or microagent.get("git_provider")
    )
    branch = body.get("selected_branch")
    found = {"provider": provider or "github", "full_name": name}
    return checked(RepositorySerializer, found | ({"branch": branch} if branch else {}))


def _trigger(request: Request, body: dict[str, Any]) -> str:
    if request.auth is not None:
        return Conversation.Trigger.API
    if body.get("create_microagent"):
        return Conversation.Trigger.MICROAGENT_MANAGEMENT
    if body.get("suggested_task"):
        return Conversation.Trigger.SUGGESTED_TASK
    return Conversation.Trigger.GUI


def _page(request: ApiRequest, wanted: dict[str, Any], **filters: Any) -> dict[str, Any]:
    rows = Conversation.objects.visible_to(request.user).filter(**filters)
    if repository := wanted.get("selected_repository"):
        rows = rows.filter(repository__full_name=repository)
    if trigger := wanted.get("conversation_trigger"):
        rows = rows.filter(trigger=trigger)
    if not wanted.get("include_sub_conversations"):
        rows = rows.filter(parent=None)
    try:
        after = pages.parse_cursor(wanted["page_id"]) if wanted.get("page_id") else None
    except pages.MalformedCursor as error:
        raise Unprocessable("page_id: This is not a page that this list gave.") from error
    page, following = pages.page(rows, limit=wanted["limit"], after=after)
    return {"results": infos_of(page, request.user), "next_page_id": following}


@RouteFacts(replaced_by="/api/v1/conversations")
class MicroagentConversationsView(V0View):
    """Conversations that write down knowledge of a repository."""

    permission = VIEW

    @schema(
        "microagent_conversations",
        parameters=[serializers.V0ListQuery],
        responses=serializers.V0ConversationsSerializer,
    )
    def get(self, request: ApiRequest) -> Response:
        """Newest first."""
        wanted = checked(serializers.V0ListQuery, request.query_params.dict())
        trigger = Conversation.Trigger.MICROAGENT_MANAGEMENT
        return Response(_page(request, wanted, trigger=trigger))


@RouteFacts(replaced_by="/api/v1/conversations/{}")
class ConversationView(V0View):
    """One conversation."""

    engine = EngineConversationView
    permissions_by_action = {  # noqa: RUF012
        "get": VIEW,
        "patch": STEER,
        "delete": "conversations.delete",
    }

    @schema("conversation", responses=serializers.V0ConversationSerializer)
    def get(self, request: ApiRequest, pk: UUID) -> Response:
        """Its record."""
        return Response(info_of(self.find(pk), request.user))

    @schema(
        "conversation_rename",
        request=serializers.V0TitleSerializer,
        responses=OpenApiTypes.BOOL,
    )
    def patch(self, request: Request, pk: UUID) -> Response:
        """Give it another title."""
        conversation = self.find(pk)
        title = checked(serializers.V0TitleSerializer, request.data)["title"]
        services.rename(conversation_id=conversation.pk, title=title)
        return Response(True)

    @schema("conversation_delete", responses={200: OpenApiTypes.BOOL})
    def delete(self, request: Request, pk: UUID) -> Response:
        """Delete it for good, with its sandbox, events and files."""
        services.delete_conversation(conversation_id=self.find(pk).pk)
        return Response(True)


# --- Steering -------------------------------------------------------------------------


@RouteFacts(cost="spend", replaced_by="/api/v1/conversations/{}/resume")
class StartView(V0View):
    """Its sandbox, up."""

    permission = STEER

    @schema(
        "conversation_start",
        request=serializers.V0StartSerializer,
        responses=serializers.V0ConversationResponseSerializer,
    )
    def post(self, request: Request, pk: UUID) -> Response:
        """Wake its sandbox; the agent goes on only when it is told to."""
        conversation = self.find(pk)
        checked(serializers.V0StartSerializer, request.data or {})
        return _answer(wake(conversation_id=conversation.pk))


@RouteFacts(replaced_by="/api/v1/conversations/{}/interrupt")
class StopView(V0View):
    """Its sandbox, asleep."""

    permission = STEER

    @schema(
        "conversation_stop",
        request=None,
        responses=serializers.V0ConversationResponseSerializer,
    )
    def post(self, request: Request, pk: UUID) -> Response:
        """Stop the agent and put its sandbox to sleep; a message or a start wakes it."""
        conversation = self.find(pk)
        services.pause_sandbox(conversation_id=conversation.pk)
        conversation.refresh_from_db()
        return _answer(conversation)


@RouteFacts(cost="spend", replaced_by="/api/v1/conversations/{}/messages")
class MessageView(V0View):
    """A message as a plain text."""

    permission = STEER

    @schema("conversation_message", request=serializers.V0MessageSerializer, responses=SUCCESS)
    def post(self, request: Request, pk: UUID) -> Response:
        """Say something to the agent."""
        conversation = self.find(pk)
        message = checked(serializers.V0MessageSerializer, request.data)["message"]
        services.post_message(
            conversation_id=conversation.pk, text=message, message_id=str(uuid4())
        )
        return Response({"success": True})


@RouteFacts(cost="spend", replaced_by="/api/v1/conversations/{}/events")
class EventsView(V0View):
    """The log in V0's events."""

    engine = EngineEventsView

    def is_for_engine(self, request: HttpRequest) -> bool:
        """Also V0's clients come with conversation keys: what they ask for tells."""
        if not speaks_engine(request):
            return False
        body = loads(request.body.decode("utf-8", "replace"))
        if request.method == "GET":
            return "id" in request.GET or bool(request.body and not body)
        return "action" not in body

    permissions_by_action = {"get": VIEW, "post": STEER}  # noqa: RUF012

    @schema(
        "conversation_events",
        parameters=[serializers.V0EventQuery],
        responses=serializers.V0EventsSerializer,
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """A page of events, whether or not the sandbox runs."""
        conversation = self.find(pk)
        wanted = checked(serializers.V0EventQuery, _event_query(request))
        if not 0 <= wanted["limit"] <= PAGE_LIMIT:
            raise InvalidLimit
        events, has_more = event_pages.page_of(conversation, wanted)
        return Response({"events": [event_pages.fragment(e) for e in events], "has_more": has_more})

    @schema("conversation_event_add", request=OpenApiTypes.OBJECT, responses=SUCCESS)
    def post(self, request: Request, pk: UUID) -> Response:
        """Send a message, or a change of the agent's state, as V0's event."""
        conversation = self.find(pk)
        commands.carry_out(conversation_id=conversation.pk, event=request.data)
        return Response({"success": True})


def _event_query(request: Request) -> dict[str, Any]:
    """The filter from the query and, where a GET has one, from its body."""
    lists = ("include_types", "exclude_types")
    query: dict[str, Any] = {k: v for k, v in request.query_params.items() if k not in lists}
    for name in lists:
        if values := request.query_params.getlist(name):
            query[name] = [one for value in values for one in value.split(",") if one]
    body = request.data if request.headers.get("Content-Length", "0") not in ("", "0") else {}
    return (body if isinstance(body, dict) else {}) | query


@RouteFacts(streams=True, replaced_by="/api/v1/conversations/{}/trajectory")
class TrajectoryView(V0View):
    """The whole log."""

    permission = VIEW

    @schema(
        "conversation_trajectory",
        responses=inline_serializer(
            "V0Trajectory", {"trajectory": fields.ListField(child=fields.DictField())}
        ),
    )
    def get(self, request: Request, pk: UUID) -> StreamingHttpResponse:
        """All events but hidden ones, without screenshots."""
        conversation = self.find(pk)
        return StreamingHttpResponse(
            event_pages.trajectory(conversation), content_type="application/json"
        )


@RouteFacts(replaced_by=NOTHING)
class RememberPromptView(V0View):
    """A prompt that has the agent keep what was learnt."""

    permission = VIEW

    @schema(
        "conversation_remember_prompt",
        parameters=[OpenApiParameter("event_id", int, required=True)],
        responses=inline_serializer(
            "V0RememberPrompt", {"status": fields.CharField(), "prompt": fields.CharField()}
        ),
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """Made of what was said up to the event; no model is asked."""
        conversation = self.find(pk)
        kind = type(
            "Query",
            (fields.Serializer,),
            {"event_id": fields.IntegerField(min_value=0, max_value=2**62)},
        )
        last = checked(kind, request.query_params.dict())["event_id"]
        said = [
            event
            for event in event_pages.walk(conversation, last=last)
            if event.get("action") in ("message", "finish")
        ]
        return Response({"status": "success", "prompt": prompts.to_remember(said)})


# --- What the place is ---------------------------------------------------------------------


@RouteFacts(replaced_by="/api/v1/conversations/{}")
class ConfigView(V0View):
    """Names of the runtime and the session."""

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
        conversation = self.find(pk)
        sandbox = conversation.sandbox_id.hex if conversation.sandbox_id else None
        return Response({"runtime_id": sandbox, "session_id": conversation.pk.hex})


@RouteFacts(replaced_by=NOTHING)
class VSCodeView(V0View):
    """An editor on the sandbox."""

    permission = VIEW

    @schema(
        "conversation_vscode_url",
        responses=inline_serializer(
            "V0VSCodeUrl", {"vscode_url": fields.CharField(allow_null=True)}
        ),
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """Null: sandboxes of this server run no editor."""
        self.find(pk)
        return Response({"vscode_url": None})


@RouteFacts(replaced_by=NOTHING)
class WebHostsView(V0View):
    """Addresses of what runs in the sandbox."""

    permission = VIEW

    @schema(
        "conversation_web_hosts",
        responses=inline_serializer("V0WebHosts", {"hosts": fields.DictField()}),
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """Empty: ports of sandboxes are not passed on."""
        self.find(pk)
        return Response({"hosts": {}})


@RouteFacts(replaced_by=NOTHING)
class MicroagentsView(V0View):
    """Knowledge that the agent was given."""

    permission = VIEW

    @schema(
        "conversation_microagents",
        responses=inline_serializer(
            "V0Microagents", {"microagents": fields.ListField(child=fields.DictField())}
        ),
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """Empty: the agent is started without any."""
        self.find(pk)
        return Response({"microagents": []})


@RouteFacts(replaced_by=NOTHING)
class ExperimentView(V0View):
    """Experiments of the vendor."""

    permission = STEER

    @schema(
        "conversation_exp_config",
        request=serializers.V0ExperimentSerializer,
        responses=OpenApiTypes.BOOL,
    )
    def post(self, request: Request, pk: UUID) -> Response:
        """False: there are no experiments here, and nothing is written."""
        self.find(pk)
        checked(serializers.V0ExperimentSerializer, request.data or {})
        return Response(False)
