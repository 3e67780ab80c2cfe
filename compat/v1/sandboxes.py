"""``/api/v1/sandboxes…`` and ``/api/v1/sandbox-specs…``. On this server every sandbox belongs to one conversation."""

from typing import Any

from django.http import Http404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.active import active_organization
from accounts.permissions import require, require_on
from accounts.requests import ApiRequest
from accounts.roles import STOP
from compat.v1 import responses, serializers
from compat.v1.app_conversations import TAGS
from compat.v1.base import (
    MAX_IDS,
    PageQuery,
    Unprocessable,
    V1View,
    fetch_page,
    parse_id,
    parse_ids,
)
from conversations import services
from conversations.models import Conversation
from lib.problems import Problem
from lib.routes import NOTHING, RouteFacts

ID = OpenApiParameter("id", str, OpenApiParameter.PATH)


class SandboxInUse(Problem):
    """The sandbox belongs to a conversation with messages, and is deleted only together with that conversation."""

    status = 409
    code = "sandbox-in-use"
    sentence = "This sandbox holds a conversation's files. Delete the conversation instead."


def conversations_with_sandbox(request: Request) -> Any:
    """Return those of the caller's conversations that have a sandbox."""
    rows = Conversation.objects.visible_to(request.user).exclude(sandbox=None)
    return rows.select_related("sandbox")


def get_sandbox_conversation(view: V1View, sandbox_id: str, permission: str) -> Conversation:
    """Return the conversation that a sandbox belongs to, after checking the caller's permission for the conversation.

    Raise ``Http404`` if the id is malformed or the caller may not see the conversation.
    """
    try:
        pk = parse_id(sandbox_id, "sandbox_id")
    except Unprocessable as error:
        raise Http404 from error
    row = conversations_with_sandbox(view.request).filter(sandbox_id=pk).first()
    if row is None:
        raise Http404
    require_on(view.request.user, row, permission)
    conversation: Conversation = row
    return conversation


@RouteFacts(replaced_by=NOTHING)
class SandboxSearchView(V1View):
    """The sandboxes of the caller's conversations, newest first."""

    permission = "conversations.view"
    serializer_class = serializers.V1SandboxPageSerializer

    @extend_schema(operation_id="v1_sandboxes_search", tags=TAGS, parameters=[PageQuery])
    def get(self, request: ApiRequest) -> Response:
        """Return a page of the sandboxes of the caller's conversations."""
        query = self.query(PageQuery)
        rows, next_page_id = fetch_page(conversations_with_sandbox(request), query)
        items = [responses.serialize_sandbox(row, request.user) for row in rows]
        return Response({"items": items, "next_page_id": next_page_id})


@RouteFacts(cost="spend", replaced_by=NOTHING)
class SandboxesView(V1View):
    """Sandboxes by id, and new sandboxes."""

    permissions_by_action = {"get": "conversations.view", "post": "conversations.create"}  # noqa: RUF012 - read by HasPermission
    serializer_class = serializers.V1SandboxSerializer

    @extend_schema(
        operation_id="v1_sandboxes_list",
        tags=TAGS,
        parameters=[OpenApiParameter("id", OpenApiTypes.UUID, many=True, required=True)],
        responses={(200, "application/json"): serializers.nullable_rows_schema("V1Sandbox")},
    )
    def get(self, request: ApiRequest) -> Response:
        """Return the sandboxes in the order of the requested ids, with null for each id without a sandbox."""
        # V1 names this parameter ``id``, but ``ids`` for conversations.
        ids = parse_ids(request, "id")
        rows = conversations_with_sandbox(request).filter(sandbox_id__in=ids).distinct()
        by_id = {row.sandbox_id: responses.serialize_sandbox(row, request.user) for row in rows}
        return Response([by_id.get(pk) for pk in ids])

    @extend_schema(
        operation_id="v1_sandboxes_create",
        tags=TAGS,
        request=None,
        parameters=[OpenApiParameter("sandbox_spec_id", str)],
    )
    def post(self, request: ApiRequest) -> Response:
        """Start a sandbox with an empty conversation.

        To start the conversation, send the sandbox's id as `sandbox_id` to `POST /app-conversations`.
        """
        if request.query_params.get("sandbox_spec_id", responses.SPEC) != responses.SPEC:
            raise Unprocessable(
                f"sandbox_spec_id: This specification does not exist. Use {responses.SPEC}."
            )
        organization = active_organization(request._request)  # noqa: SLF001
        require(request.user, organization.pk, "conversations.create")
        conversation = services.create_conversation(user=request.user, organization=organization)
        return Response(responses.serialize_sandbox(conversation, request.user))


@RouteFacts(replaced_by=NOTHING)
class SandboxPauseView(V1View):
    """The route that pauses a sandbox."""

    permission = "conversations.steer"
    serializer_class = serializers.V1SuccessSerializer

    @extend_schema(
        operation_id="v1_sandboxes_pause",
        tags=TAGS,
        request=None,
        parameters=[ID],
    )
    def post(self, request: Request, pk: str) -> Response:
        """Pause the sandbox. Its files are kept. Safe to repeat."""
        row = get_sandbox_conversation(self, pk, STOP)
        services.pause_sandbox(conversation_id=row.pk)
        return Response({"success": True})


@RouteFacts(cost="spend", replaced_by="/api/v1/conversations/{}/resume")
class SandboxResumeView(V1View):
    """The route that starts a paused sandbox."""

    permission = "conversations.steer"
    serializer_class = serializers.V1SuccessSerializer

    @extend_schema(
        operation_id="v1_sandboxes_resume",
        tags=TAGS,
        request=None,
        parameters=[ID],
    )
    def post(self, request: ApiRequest, pk: str) -> Response:
        """Start a paused sandbox, and let a stopped agent continue. Safe to repeat."""
        row = get_sandbox_conversation(self, pk, self.permission)
        services.resume(conversation_id=row.pk, by=request.user)
        return Response({"success": True})


@RouteFacts(replaced_by=NOTHING)
class SandboxView(V1View):
    """The route that deletes a sandbox."""

    permission = "conversations.delete"
    serializer_class = serializers.V1SuccessSerializer

    @extend_schema(
        operation_id="v1_sandboxes_destroy",
        tags=TAGS,
        parameters=[ID, OpenApiParameter("sandbox_id", str)],
        responses={200: serializers.V1SuccessSerializer},
    )
    def delete(self, request: Request, pk: str) -> Response:
        """Delete the sandbox of an empty conversation. Respond with 409 if the conversation has messages."""
        # OpenHands' own server reads the id from the query string and ignores the path, so clients send both.
        row = get_sandbox_conversation(
            self, request.query_params.get("sandbox_id") or pk, self.permission
        )
        if row.events.filter(kind="UserMessage").exists():
            raise SandboxInUse
        services.delete_conversation(conversation_id=row.pk)
        return Response({"success": True})


def _serialize_spec() -> dict[str, Any]:
    return {
        "id": responses.SPEC,
        "command": None,
        "created_at": "2026-11-22T00:00:00Z",
        "initial_env": {},
        "working_dir": responses.WORKSPACE,
    }


@RouteFacts(replaced_by=NOTHING)
class SandboxSpecSearchView(V1View):
    """The sandbox specifications of this server."""

    permission = "conversations.view"
    serializer_class = serializers.V1SandboxSpecPageSerializer

    @extend_schema(operation_id="v1_sandbox_specs_search", tags=TAGS, parameters=[PageQuery])
    def get(self, request: Request) -> Response:
        """Return the only specification of this server. `initial_env` is always empty."""
        self.query(PageQuery)
        return Response({"items": [_serialize_spec()], "next_page_id": None})


@RouteFacts(replaced_by=NOTHING)
class SandboxSpecsView(V1View):
    """Sandbox specifications by id."""

    permission = "conversations.view"

    @extend_schema(
        operation_id="v1_sandbox_specs_list",
        tags=TAGS,
        parameters=[OpenApiParameter("id", str, many=True, required=True)],
        responses={(200, "application/json"): serializers.nullable_rows_schema("V1SandboxSpec")},
    )
    def get(self, request: Request) -> Response:
        """Return the specifications in the order of the requested ids, with null for each unknown id."""
        ids = request.query_params.getlist("id")
        if not 0 < len(ids) <= MAX_IDS:
            raise Unprocessable(f"id: Send 1 to {MAX_IDS} ids.")
        return Response([_serialize_spec() if pk == responses.SPEC else None for pk in ids])
