"""Git hosts over REST: parse, one service or provider call, serialize."""

from dataclasses import asdict
from typing import Any
from uuid import UUID

from django.http import Http404
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers as drf
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.active import active_organization
from accounts.api.permissions import permission_of
from accounts.models import Organization, ProviderToken
from accounts.permissions import require
from accounts.requests import ApiRequest
from accounts.services import provider_tokens
from conversations.models import Conversation
from integrations import services
from integrations.api.v1 import serializers
from integrations.provider import GitProvider
from lib.api import parse_query
from lib.routes import RouteFacts

ORGANIZATION = OpenApiParameter("organization", UUID, description="Yours by default.")
PROVIDER = OpenApiParameter(
    "provider", str, OpenApiParameter.PATH, enum=list(serializers.PROVIDERS)
)


class HostView(GenericAPIView[Any]):
    """What all of them share: the organization, the caller's permission there, the Git host."""

    serializer_class: Any = drf.Serializer
    pagination_class = None

    def organization(self, request: ApiRequest) -> Organization:
        """Where the request works, with the view's permission checked there."""
        organization = active_organization(request)
        require(request.user, organization.pk, permission_of(self) or "")
        return organization

    def host(self, request: ApiRequest, provider: str) -> GitProvider:
        """The Git host with the caller's token."""
        organization = self.organization(request)
        return services.provider_for(
            user_id=request.user.pk, organization_id=organization.pk, provider=provider
        )

    def query(self, kind: type[drf.Serializer[Any]], request: Request) -> dict[str, Any]:
        return parse_query(kind, request, ignoring={"organization"})


def listed(rows: list[Any], *, cursor: int | None = None) -> Response:
    """A list of records and the cursor of what follows."""
    return Response(
        {"items": [asdict(row) for row in rows], "next": str(cursor) if cursor else None}
    )


def told(row: ProviderToken) -> dict[str, Any]:
    """A connected host without its token."""
    return {
        "provider": row.provider,
        "host": row.host,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "last_used_at": row.last_used_at,
    }


@extend_schema(tags=["integrations"], parameters=[ORGANIZATION])
class ProviderTokensView(HostView):
    """The Git hosts that you have connected in an organization."""

    permission = "integrations.view"

    @extend_schema(
        operation_id="provider_tokens_list", responses=serializers.ProviderTokenListSerializer
    )
    def get(self, request: ApiRequest) -> Response:
        """By provider; tokens are never given back."""
        organization = self.organization(request)
        rows = provider_tokens.provider_tokens(
            user_id=request.user.pk, organization_id=organization.pk
        )
        return Response({"items": [told(row) for row in rows], "next": None})


@RouteFacts(streams=True)
@extend_schema(tags=["integrations"], parameters=[ORGANIZATION, PROVIDER])
class ProviderTokenView(HostView):
    """One of them."""

    permission = "integrations.edit"
    serializer_class = serializers.NewTokenSerializer

    @extend_schema(operation_id="provider_tokens_put", responses=serializers.ConnectedSerializer)
    def put(self, request: ApiRequest, provider: str) -> Response:
        """Connect with a token, in place of an earlier one. The Git host is asked first whose it is."""
        organization = self.organization(request)
        wanted = self.get_serializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        row, owner = services.connect(
            user=request.user,
            organization=organization,
            provider=provider,
            **wanted.validated_data,
        )
        return Response(told(row) | {"user": asdict(owner)})

    @extend_schema(operation_id="provider_tokens_delete", responses={204: None})
    def delete(self, request: ApiRequest, provider: str) -> Response:
        """Forget the token. Safe to repeat."""
        organization = self.organization(request)
        provider_tokens.remove_provider_token(
            user=request.user,
            organization=organization,
            provider=provider,
        )
        return Response(status=204)


@RouteFacts(streams=True)
@extend_schema(tags=["integrations"], parameters=[ORGANIZATION, PROVIDER])
class GitUserView(HostView):
    """Whose token it is."""

    permission = "integrations.view"

    @extend_schema(operation_id="integrations_user", responses=serializers.GitUserSerializer)
    def get(self, request: ApiRequest, provider: str) -> Response:
        """The account at the Git host."""
        return Response(asdict(self.host(request, provider).user()))


@RouteFacts(streams=True)
@extend_schema(tags=["integrations"], parameters=[ORGANIZATION, PROVIDER])
class InstallationsView(HostView):
    """What repositories can be narrowed to."""

    permission = "integrations.view"

    @extend_schema(
        operation_id="integrations_installations", responses=serializers.NameListSerializer
    )
    def get(self, request: ApiRequest, provider: str) -> Response:
        """Ids of app installations, or names of accounts where the token is a personal one."""
        return Response({"items": self.host(request, provider).installations(), "next": None})


@RouteFacts(streams=True)
@extend_schema(tags=["integrations"], parameters=[ORGANIZATION, PROVIDER])
class RepositoriesView(HostView):
    """Repositories that your token reads."""

    permission = "integrations.view"

    @extend_schema(
        operation_id="integrations_repositories",
        parameters=[serializers.RepositoryQuery],
        responses=serializers.RepositoryListSerializer,
    )
    def get(self, request: ApiRequest, provider: str) -> Response:
        """Recently pushed ones first; `q` searches, in one page."""
        query = self.query(serializers.RepositoryQuery, request)
        host = self.host(request, provider)
        if words := query.get("q"):
            rows = host.search_repositories(
                query=words, per_page=query["limit"], sort="stars", order="desc"
            )
            return listed(rows)
        number = int(query.get("cursor", 1))
        page = host.repositories(
            page=number,
            per_page=query["limit"],
            sort=query["sort"],
            installation=query.get("installation"),
        )
        return listed(page.items, cursor=number + 1 if page.has_next else None)


@RouteFacts(streams=True)
@extend_schema(tags=["integrations"], parameters=[ORGANIZATION, PROVIDER])
class BranchesView(HostView):
    """Branches of a repository."""

    permission = "integrations.view"

    @extend_schema(
        operation_id="integrations_branches",
        parameters=[serializers.BranchQuery],
        responses=serializers.BranchListSerializer,
    )
    def get(self, request: ApiRequest, provider: str) -> Response:
        """In the Git host's order; `q` finds those whose name holds a text, in one page."""
        query = self.query(serializers.BranchQuery, request)
        host, repository = self.host(request, provider), query["repository"]
        if words := query.get("q"):
            rows = host.search_branches(repository=repository, query=words, per_page=query["limit"])
            return listed(rows)
        number = int(query.get("cursor", 1))
        page = host.branches(repository=repository, page=number, per_page=query["limit"])
        return listed(page.items, cursor=number + 1 if page.has_next else None)


@RouteFacts(streams=True)
@extend_schema(tags=["integrations"], parameters=[ORGANIZATION, PROVIDER])
class SuggestedTasksView(HostView):
    """What waits for you at the Git host."""

    permission = "integrations.view"

    @extend_schema(
        operation_id="integrations_suggested_tasks",
        responses=serializers.SuggestedTaskListSerializer,
    )
    def get(self, request: ApiRequest, provider: str) -> Response:
        """Your open pull requests in trouble, then issues assigned to you."""
        return listed(self.host(request, provider).suggested_tasks())


@RouteFacts(streams=True)
@extend_schema(tags=["integrations"], parameters=[ORGANIZATION, PROVIDER])
class MicroagentsView(HostView):
    """A repository's files of instructions for agents."""

    permission = "integrations.view"

    @extend_schema(
        operation_id="integrations_microagents",
        parameters=[serializers.RepositoryNameQuery],
        responses=serializers.MicroagentListSerializer,
    )
    def get(self, request: ApiRequest, provider: str) -> Response:
        """Those of its default branch."""
        query = self.query(serializers.RepositoryNameQuery, request)
        return listed(self.host(request, provider).microagents(repository=query["repository"]))


@RouteFacts(streams=True)
@extend_schema(tags=["integrations"], parameters=[ORGANIZATION, PROVIDER])
class MicroagentView(HostView):
    """One of them."""

    permission = "integrations.view"

    @extend_schema(
        operation_id="integrations_microagent_content",
        parameters=[serializers.FileOfRepositoryQuery],
        responses=serializers.MicroagentContentSerializer,
    )
    def get(self, request: ApiRequest, provider: str) -> Response:
        """Its text, and the words that call for it."""
        query = self.query(serializers.FileOfRepositoryQuery, request)
        found = self.host(request, provider).microagent(**query)
        return Response(asdict(found))


@RouteFacts(streams=True)
@extend_schema(tags=["integrations"], parameters=[ORGANIZATION, PROVIDER])
class PullRequestsView(HostView):
    """Pull requests that this server opens for you."""

    permission = "pull_requests.create"
    serializer_class = serializers.NewPullRequestSerializer

    @extend_schema(
        operation_id="integrations_pull_requests_create",
        responses={201: serializers.PullRequestSerializer},
    )
    def post(self, request: ApiRequest, provider: str) -> Response:
        """Open one with your token; the conversation that it came of remembers its number."""
        organization = self.organization(request)
        wanted = self.get_serializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        body = wanted.validated_data
        opened = services.open_pull_request(
            user=request.user,
            organization=organization,
            provider=provider,
            repository=body["repository"],
            source=body["source_branch"],
            target=body["target_branch"],
            title=body["title"],
            body=body["body"],
            draft=body["draft"],
            labels=body.get("labels"),
            conversation=conversation_of(request.user, body.get("conversation")),
        )
        return Response(asdict(opened), status=201)


def conversation_of(user: Any, conversation_id: Any) -> Conversation | None:
    """A conversation that the caller sees and may steer; None for no id. Raises ``Http404``."""
    if not conversation_id:
        return None
    found = Conversation.objects.visible_to(user).filter(pk=conversation_id).first()
    if found is None:
        raise Http404
    require(user, found.organization_id, "conversations.steer")
    return found
