"""The API of Git hosts: the caller's account, repositories, branches, tasks and pull requests."""

from dataclasses import asdict
from typing import Any

from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework import viewsets
from rest_framework.decorators import action
from rest_framework.response import Response

from accounts.permissions import require
from accounts.requests import ApiRequest
from conversations.models import Conversation
from integrations import services
from integrations.api.v1 import serializers
from integrations.api.v1.mixins import GitHostMixin
from integrations.api.v1.parameters import ORGANIZATION, PROVIDER
from lib.routes import RouteFacts


@RouteFacts(streams=True)
@extend_schema(tags=["integrations"], parameters=[ORGANIZATION])
class ProviderViewSet(GitHostMixin, viewsets.ViewSet):
    """The Git hosts of this server, and the caller's account, repositories and tasks at each of them."""

    permission = "integrations.view"
    permissions_by_action = {  # noqa: RUF012 - read by HasPermission
        "pull_requests": "pull_requests.create"
    }
    lookup_url_kwarg = "provider"
    lookup_value_converter = "slug"
    url_names = {  # noqa: RUF012 - read by Router
        "list": "integration-list",
        "retrieve": "integration-detail",
        "suggested_tasks": "suggested-tasks",
        "microagents": "microagents",
        "microagent_content": "microagent",
        "pull_requests": "pull-requests",
    }

    # `list` and `retrieve` call no other server, so the `web` processes can serve them.
    @RouteFacts()
    @extend_schema(
        operation_id="integrations_list", responses=serializers.IntegrationListSerializer
    )
    def list(self, request: ApiRequest) -> Response:
        """List the Git hosts that this server supports, and whether you have connected them."""
        self.parse_query(serializers.OrganizationQuery, request)
        organization = self.get_organization(request)
        rows = services.list_connections(user_id=request.user.pk, organization_id=organization.pk)
        return _list_response(rows)

    @RouteFacts()
    @extend_schema(
        operation_id="integrations_retrieve",
        parameters=[PROVIDER],
        responses=serializers.IntegrationSerializer,
    )
    def retrieve(self, request: ApiRequest, provider: str) -> Response:
        """Return a Git host, and whether you have connected it."""
        self.parse_query(serializers.OrganizationQuery, request)
        organization = self.get_organization(request)
        row = services.get_connection(
            user_id=request.user.pk, organization_id=organization.pk, provider=provider
        )
        return Response(asdict(row))

    @extend_schema(
        operation_id="integrations_user",
        parameters=[PROVIDER],
        responses=serializers.GitUserSerializer,
    )
    @action(detail=True, methods=["get"])
    def user(self, request: ApiRequest, provider: str) -> Response:
        """Return your account at the Git host."""
        return Response(asdict(self.get_host(request, provider).user()))

    @extend_schema(
        operation_id="integrations_installations",
        parameters=[PROVIDER],
        responses=serializers.NameListSerializer,
    )
    @action(detail=True, methods=["get"])
    def installations(self, request: ApiRequest, provider: str) -> Response:
        """List the values for the repositories' ``installation`` filter.

        These are ids of app installations, or names of accounts if your token is a personal token.
        """
        return Response({"items": self.get_host(request, provider).installations(), "next": None})

    @extend_schema(
        operation_id="integrations_repositories",
        parameters=[PROVIDER, serializers.RepositoryQuery],
        responses=serializers.RepositoryListSerializer,
    )
    @action(detail=True, methods=["get"])
    def repositories(self, request: ApiRequest, provider: str) -> Response:
        """List the repositories that your token can read, by default the last pushed first.

        With ``q``, return one page of repositories that match.
        """
        query = self.parse_query(serializers.RepositoryQuery, request)
        host = self.get_host(request, provider)
        if words := query.get("q"):
            rows = host.search_repositories(
                query=words, per_page=query["limit"], sort="stars", order="desc"
            )
            return _list_response(rows)
        number = int(query.get("cursor", 1))
        page = host.repositories(
            page=number,
            per_page=query["limit"],
            sort=query["sort"],
            installation=query.get("installation"),
        )
        return _list_response(page.items, next_page=number + 1 if page.has_next else None)

    @extend_schema(
        operation_id="integrations_branches",
        parameters=[PROVIDER, serializers.BranchQuery],
        responses=serializers.BranchListSerializer,
    )
    @action(detail=True, methods=["get"])
    def branches(self, request: ApiRequest, provider: str) -> Response:
        """List the branches of a repository in the Git host's order.

        With ``q``, return one page of branches whose name contains the text.
        """
        query = self.parse_query(serializers.BranchQuery, request)
        host, repository = self.get_host(request, provider), query["repository"]
        if words := query.get("q"):
            rows = host.search_branches(repository=repository, query=words, per_page=query["limit"])
            return _list_response(rows)
        number = int(query.get("cursor", 1))
        page = host.branches(repository=repository, page=number, per_page=query["limit"])
        return _list_response(page.items, next_page=number + 1 if page.has_next else None)

    @extend_schema(
        operation_id="integrations_suggested_tasks",
        parameters=[PROVIDER],
        responses=serializers.SuggestedTaskListSerializer,
    )
    @action(detail=True, methods=["get"], url_path="suggested-tasks")
    def suggested_tasks(self, request: ApiRequest, provider: str) -> Response:
        """List your open pull requests that need work, followed by the issues assigned to you."""
        return _list_response(self.get_host(request, provider).suggested_tasks())

    @extend_schema(
        operation_id="integrations_microagents",
        parameters=[PROVIDER, serializers.RepositoryNameQuery],
        responses=serializers.MicroagentListSerializer,
    )
    @action(detail=True, methods=["get"])
    def microagents(self, request: ApiRequest, provider: str) -> Response:
        """List the files of instructions for agents on a repository's default branch."""
        query = self.parse_query(serializers.RepositoryNameQuery, request)
        rows = self.get_host(request, provider).microagents(repository=query["repository"])
        return _list_response(rows)

    @extend_schema(
        operation_id="integrations_microagent_content",
        parameters=[PROVIDER, serializers.FileOfRepositoryQuery],
        responses=serializers.MicroagentContentSerializer,
    )
    @action(detail=True, methods=["get"], url_path="microagents/content")
    def microagent_content(self, request: ApiRequest, provider: str) -> Response:
        """Return the text of a file of instructions for agents, and the words that trigger it."""
        query = self.parse_query(serializers.FileOfRepositoryQuery, request)
        return Response(asdict(self.get_host(request, provider).microagent(**query)))

    @extend_schema(
        operation_id="integrations_pull_requests_create",
        parameters=[PROVIDER],
        request=serializers.NewPullRequestSerializer,
        responses={201: serializers.PullRequestSerializer},
    )
    @action(detail=True, methods=["post"], url_path="pull-requests")
    def pull_requests(self, request: ApiRequest, provider: str) -> Response:
        """Open a pull request with your token. Its number is added to the record of ``conversation``."""
        organization = self.get_organization(request)
        serializer = serializers.NewPullRequestSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        body = serializer.validated_data
        pull_request = services.open_pull_request(
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
            conversation=_get_conversation(request.user, body.get("conversation")),
        )
        return Response(asdict(pull_request), status=201)


def _list_response(rows: list[Any], *, next_page: int | None = None) -> Response:
    return Response(
        {"items": [asdict(row) for row in rows], "next": str(next_page) if next_page else None}
    )


def _get_conversation(user: Any, conversation_id: Any) -> Conversation | None:
    """Return the conversation that a pull request belongs to; None without an id.

    Raise ``Http404`` if the user may not see it, and ``MissingPermission`` if the user may not steer it.
    """
    if not conversation_id:
        return None
    conversation = Conversation.objects.visible_to(user).filter(pk=conversation_id).first()
    if conversation is None:
        raise Http404
    require(user, conversation.organization_id, "conversations.steer")
    return conversation
