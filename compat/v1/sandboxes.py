"""``/api/v1/sandboxes…`` and ``/api/v1/sandbox-specs…``. Every sandbox here is one conversation's."""

from typing import Any

from django.http import Http404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.active import active_organization
from accounts.permissions import require
from accounts.requests import ApiRequest
from compat.v1 import responses, shapes
from compat.v1.app_conversations import TAGS
from compat.v1.base import MAX_IDS, PageQuery, Unprocessable, V1View, as_id, ids_of, page_of
from conversations import services
from conversations.models import Conversation
from lib.problems import Problem
from lib.routes import NOTHING, RouteFacts

ID = OpenApiParameter("id", str, OpenApiParameter.PATH)


class SandboxInUse(Problem):
    """A sandbox that goes only with the conversation that it holds."""

    status = 409
    code = "sandbox-in-use"
    sentence = "This sandbox holds a conversation's files. Delete the conversation instead."


def with_sandbox(request: Request) -> Any:
    """The caller's conversations that have a sandbox."""
    rows = Conversation.objects.visible_to(request.user).exclude(sandbox=None)
    return rows.select_related("sandbox")


def the_one(view: V1View, sandbox_id: str, permission: str) -> Conversation:
    """The conversation whose sandbox this is; 404 for what the caller may not see."""
    try:
        pk = as_id(sandbox_id, "sandbox_id")
    except Unprocessable as error:
        raise Http404 from error
    row = with_sandbox(view.request).filter(sandbox_id=pk).first()
    if row is None:
        raise Http404
    require(view.request.user, row.organization_id, permission)
    found: Conversation = row
    return found


@RouteFacts(replaced_by=NOTHING)
class SandboxSearchView(V1View):
    """Sandboxes, newest first."""

    permission = "conversations.view"
    serializer_class = shapes.V1SandboxPageSerializer

    @extend_schema(operation_id="v1_sandboxes_search", tags=TAGS, parameters=[PageQuery])
    def get(self, request: ApiRequest) -> Response:
        """A page of the sandboxes of the caller's conversations."""
        query = self.query(PageQuery)
        rows, following = page_of(with_sandbox(request), query)
        items = [responses.sandbox_info(row, request.user) for row in rows]
        return Response({"items": items, "next_page_id": following})


@RouteFacts(cost="spend", replaced_by=NOTHING)
class SandboxesView(V1View):
    """Sandboxes by id, and a new one."""

    permissions_by_action = {"get": "conversations.view", "post": "conversations.create"}  # noqa: RUF012 - read by HasPermission
    serializer_class = shapes.V1SandboxSerializer

    @extend_schema(
        operation_id="v1_sandboxes_list",
        tags=TAGS,
        parameters=[OpenApiParameter("id", OpenApiTypes.UUID, many=True, required=True)],
        responses={(200, "application/json"): shapes.rows_or_null("V1Sandbox")},
    )
    def get(self, request: ApiRequest) -> Response:
        """These sandboxes in this order, null for what is not there."""
        wanted = ids_of(request, "id")
        rows = with_sandbox(request).filter(sandbox_id__in=wanted).distinct()
        by_id = {row.sandbox_id: responses.sandbox_info(row, request.user) for row in rows}
        return Response([by_id.get(pk) for pk in wanted])

    @extend_schema(
        operation_id="v1_sandboxes_create",
        tags=TAGS,
        request=None,
        parameters=[OpenApiParameter("sandbox_spec_id", str)],
    )
    def post(self, request: ApiRequest) -> Response:
        """Start a sandbox, with an empty conversation in it for `POST /app-conversations` to use."""
        if request.query_params.get("sandbox_spec_id", responses.SPEC) != responses.SPEC:
            raise Unprocessable("sandbox_spec_id: there is no such specification.")
        organization = active_organization(request._request)  # noqa: SLF001
        require(request.user, organization.pk, "conversations.create")
        made = services.create_conversation(user=request.user, organization=organization)
        return Response(responses.sandbox_info(made, request.user))


@RouteFacts(replaced_by=NOTHING)
class SandboxPauseView(V1View):
    """A sandbox's sleep."""

    permission = "conversations.steer"
    serializer_class = shapes.V1SuccessSerializer

    @extend_schema(
        operation_id="v1_sandboxes_pause",
        tags=TAGS,
        request=None,
        parameters=[ID],
    )
    def post(self, request: Request, pk: str) -> Response:
        """Put it to sleep; its files stay. Safe to repeat."""
        row = the_one(self, pk, self.permission)
        services.pause_sandbox(conversation_id=row.pk)
        return Response({"success": True})


@RouteFacts(cost="spend", replaced_by="/api/v1/conversations/{}/resume")
class SandboxResumeView(V1View):
    """A sandbox's waking."""

    permission = "conversations.steer"
    serializer_class = shapes.V1SuccessSerializer

    @extend_schema(
        operation_id="v1_sandboxes_resume",
        tags=TAGS,
        request=None,
        parameters=[ID],
    )
    def post(self, request: Request, pk: str) -> Response:
        """Wake it. Safe to repeat."""
        row = the_one(self, pk, self.permission)
        services.resume(conversation_id=row.pk)
        return Response({"success": True})


@RouteFacts(replaced_by=NOTHING)
class SandboxView(V1View):
    """One sandbox."""

    permission = "conversations.delete"
    serializer_class = shapes.V1SuccessSerializer

    @extend_schema(
        operation_id="v1_sandboxes_destroy",
        tags=TAGS,
        parameters=[ID, OpenApiParameter("sandbox_id", str)],
        responses={200: shapes.V1SuccessSerializer},
    )
    def delete(self, request: Request, pk: str) -> Response:
        """Remove a sandbox that was never talked to; 409 for one that holds somebody's work."""
        row = the_one(self, request.query_params.get("sandbox_id") or pk, self.permission)
        if row.events.filter(kind="UserMessage").exists():
            raise SandboxInUse
        services.delete_conversation(conversation_id=row.pk)
        return Response({"success": True})


def _spec() -> dict[str, Any]:
    return {
        "id": responses.SPEC,
        "command": None,
        "created_at": "2026-11-22T00:00:00Z",
        "initial_env": {},
        "working_dir": responses.WORKSPACE,
    }


@RouteFacts(replaced_by=NOTHING)
class SandboxSpecSearchView(V1View):
    """What sandboxes are made of."""

    permission = "conversations.view"
    serializer_class = shapes.V1SandboxSpecPageSerializer

    @extend_schema(operation_id="v1_sandbox_specs_search", tags=TAGS, parameters=[PageQuery])
    def get(self, request: Request) -> Response:
        """The one specification of this server; no environment is shown."""
        self.query(PageQuery)
        return Response({"items": [_spec()], "next_page_id": None})


@RouteFacts(replaced_by=NOTHING)
class SandboxSpecsView(V1View):
    """Specifications by id."""

    permission = "conversations.view"

    @extend_schema(
        operation_id="v1_sandbox_specs_list",
        tags=TAGS,
        parameters=[OpenApiParameter("id", str, many=True, required=True)],
        responses={(200, "application/json"): shapes.rows_or_null("V1SandboxSpec")},
    )
    def get(self, request: Request) -> Response:
        """These specifications in this order, null for what is not there."""
        wanted = request.query_params.getlist("id")
        if not 0 < len(wanted) <= MAX_IDS:
            raise Unprocessable(f"id: give 1 to {MAX_IDS} of them.")
        return Response([_spec() if one == responses.SPEC else None for one in wanted])
