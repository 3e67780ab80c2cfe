"""API endpoints for Git hosts: the caller's account, repositories, branches, tasks and pull requests."""

from dataclasses import asdict
from typing import Any

from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework import viewsets
from rest_framework.decorators import action
from rest_framework.response import Response

from accounts.permissions import require_on
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
    """The Git hosts that this server supports, and the caller's account, repositories and tasks there."""

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
            user_id=request.user.pk, organization_id=organization.pk, provider_name=provider
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
        return Response(asdict(self.get_git_provider(request, provider).user()))

    @extend_schema(
        operation_id="integrations_installations",
        parameters=[PROVIDER],
        responses=serializers.NameListSerializer,
    )
    @action(detail=True, methods=["get"])
    def installations(self, request: ApiRequest, provider: str) -> Response:
        """List the values that the filter `installation` of the repository list accepts.

        With a personal token, the values are account names. With other tokens, they are ids of app installations.
        """
        return Response(
            {"items": self.get_git_provider(request, provider).installations(), "next": None}
        )

    @extend_schema(
        operation_id="integrations_repositories",
        parameters=[PROVIDER, serializers.RepositoryQuery],
        responses=serializers.RepositoryListSerializer,
    )
    @action(detail=True, methods=["get"])
    def repositories(self, request: ApiRequest, provider: str) -> Response:
        """List the repositories that your token can read. By default, the latest push comes first.

        With `q`, return only one page, with the repositories that match.
        """
        query = self.parse_query(serializers.RepositoryQuery, request)
        git_provider = self.get_git_provider(request, provider)
        if words := query.get("q"):
            rows = git_provider.search_repositories(
                query=words, per_page=query["limit"], sort="stars", order="desc"
            )
            return _list_response(rows)
        number = int(query.get("cursor", 1))  # the cursor is the page number at the Git host
        page = git_provider.repositories(
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
        """List the branches of a repository in the order of the Git host.

        With `q`, return only one page, with the branches whose name contains this text.
        """
        query = self.parse_query(serializers.BranchQuery, request)
        git_provider, repository = self.get_git_provider(request, provider), query["repository"]
        if words := query.get("q"):
            rows = git_provider.search_branches(
                repository=repository, query=words, per_page=query["limit"]
            )
            return _list_response(rows)
        number = int(query.get("cursor", 1))  # the cursor is the page number at the Git host
        page = git_provider.branches(repository=repository, page=number, per_page=query["limit"])
        return _list_response(page.items, next_page=number + 1 if page.has_next else None)

    @extend_schema(
        operation_id="integrations_suggested_tasks",
        parameters=[PROVIDER],
        responses=serializers.SuggestedTaskListSerializer,
    )
    @action(detail=True, methods=["get"], url_path="suggested-tasks")
    def suggested_tasks(self, request: ApiRequest, provider: str) -> Response:
        """List your open pull requests that need work, followed by the issues assigned to you."""
        return _list_response(self.get_git_provider(request, provider).suggested_tasks())

    @extend_schema(
        operation_id="integrations_microagents",
        parameters=[PROVIDER, serializers.RepositoryNameQuery],
        responses=serializers.MicroagentListSerializer,
    )
    @action(detail=True, methods=["get"])
    def microagents(self, request: ApiRequest, provider: str) -> Response:
        """List the files with instructions for agents on a repository's default branch."""
        query = self.parse_query(serializers.RepositoryNameQuery, request)
        rows = self.get_git_provider(request, provider).microagents(repository=query["repository"])
        return _list_response(rows)

    @extend_schema(
        operation_id="integrations_microagent_content",
        parameters=[PROVIDER, serializers.FileOfRepositoryQuery],
        responses=serializers.MicroagentContentSerializer,
    )
    @action(detail=True, methods=["get"], url_path="microagents/content")
    def microagent_content(self, request: ApiRequest, provider: str) -> Response:
        """Return the text of a file with instructions for agents, and the words that trigger its use."""
        query = self.parse_query(serializers.FileOfRepositoryQuery, request)
        return Response(asdict(self.get_git_provider(request, provider).microagent(**query)))

    @extend_schema(
        operation_id="integrations_pull_requests_create",
        parameters=[PROVIDER],
        request=serializers.NewPullRequestSerializer,
        responses={201: serializers.PullRequestSerializer},
    )
    @action(detail=True, methods=["post"], url_path="pull-requests")
    def pull_requests(self, request: ApiRequest, provider: str) -> Response:
        """Open a pull request with your token.

        If `conversation` is sent, the conversation stores the number of the pull request.
        """
        organization = self.get_organization(request)
        serializer = serializers.NewPullRequestSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        body = serializer.validated_data
        pull_request = services.open_pull_request(
            user=request.user,
            organization=organization,
            provider_name=provider,
            repository_name=body["repository"],
            source_branch=body["source_branch"],
            target_branch=body["target_branch"],
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
    """Return the conversation that a pull request belongs to; None if the request names no conversation.

    Raise ``Http404`` if the user cannot see the conversation, and ``MissingPermission`` if the user cannot steer it.
    """
    if not conversation_id:
        return None
    conversation = Conversation.objects.visible_to(user).filter(pk=conversation_id).first()
    if conversation is None:
        raise Http404
    require_on(user, conversation, "conversations.steer")
    return conversation
