"""``/api/user/…``, ``/api/add-git-providers`` and ``/api/unset-provider-tokens``.

OpenHands' own server has these faults, which this module avoids: a request without ``page`` fails, only the last of
several tokens is checked, and the user's token is deleted when a Git host is unreachable.

The web client treats a 401 as the end of its session. Therefore users without a connected Git host receive empty lists,
and a stored token that the host no longer accepts causes a 409. Only a new token that the host rejects causes a 401.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any, TypeVar

from django.db import transaction
from drf_spectacular.utils import extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import Organization
from accounts.requests import ApiRequest
from accounts.services import provider_tokens
from integrations import registry, services
from integrations.api.v1 import serializers as git_serializers
from integrations.api.v1.mixins import GitHostMixin
from integrations.provider import GitProvider, NoSuchRepository, TokenRefused
from lib.problems import Problem
from lib.routes import RouteFacts

MESSAGE = inline_serializer("GitMessage", {"message": serializers.CharField()})
T = TypeVar("T")
DIGITS = 18
"""The maximum number of digits of a number in a query string, which avoids parsing very long numbers."""


class CompatRepositorySerializer(git_serializers.GitRepositorySerializer):
    """A repository. ``link_header`` is the ``Link`` header with which the Git host sent this page of repositories."""

    link_header = serializers.CharField(allow_null=True)


class BranchPageSerializer(serializers.Serializer[Any]):
    """A page of branches."""

    branches = git_serializers.BranchSerializer(many=True)
    has_next_page = serializers.BooleanField()
    current_page = serializers.IntegerField()
    per_page = serializers.IntegerField()
    total_count = serializers.IntegerField(allow_null=True)


class BadQuery(Problem):
    """A parameter of the query string is missing or not valid. The detail names the parameter."""

    code = "bad-query"


class CompatView(GitHostMixin, GenericAPIView[Any]):
    """The base class of routes that read from Git hosts. Unknown parameters are ignored."""

    permission = "integrations.view"
    serializer_class: Any = serializers.Serializer
    pagination_class = None

    def hosts(self, request: ApiRequest, provider: str | None = None) -> list[GitProvider]:
        """Return the Git hosts that the caller has connected. With ``provider``, return only that provider's host.

        Raise ``BadQuery`` if ``provider`` is unknown.
        """
        organization = self.get_organization(request)
        if provider and provider not in git_serializers.PROVIDERS:
            raise BadQuery(f"The provider {provider[:40]!r} is unknown.")
        user = request.user
        names = services.connected_providers(user_id=user.pk, organization_id=organization.pk)
        return [
            services.provider_for(
                user_id=user.pk, organization_id=organization.pk, provider_name=name
            )
            for name in names
            if not provider or name == provider
        ]


def parse_number(request: Request, name: str, *, default: int, most: int) -> int:
    """Return a parameter of the query string as a positive integer; a number above ``most`` becomes ``most``.

    Return ``default`` if the parameter is missing or not a positive integer.
    """
    text = request.query_params.get(name, "")
    is_number = text.isascii() and text.isdecimal() and len(text) <= DIGITS
    return min(int(text), most) if is_number and int(text) else default


def require_text(request: Request, name: str) -> str:
    """Return a parameter of the query string. Raise ``BadQuery`` if it is empty or longer than 1,000 characters."""
    text: str = request.query_params.get(name, "").strip()
    if not text or len(text) > 1_000:
        raise BadQuery(f"The parameter `{name}` is missing or longer than 1,000 characters.")
    return text


def ask_first_host(hosts: list[GitProvider], ask: Callable[[GitProvider], T]) -> T | None:
    """Call ``ask`` with one Git host after another until a host has the repository, and return the result.

    Existing clients do not always name the host of a repository. If ``hosts`` is empty, return None. Raise
    ``NoSuchRepository`` if no host has the repository.
    """
    missing: NoSuchRepository | None = None
    for host in hosts:
        try:
            return ask(host)
        except NoSuchRepository as error:
            missing = error
    if missing:
        raise missing
    return None


@RouteFacts(streams=True, replaced_by="/api/v1/integrations/{}/user")
@extend_schema(tags=["compat"])
class InfoView(CompatView):
    """The caller's account at a Git host."""

    @extend_schema(operation_id="compat_user_info", responses=git_serializers.GitUserSerializer)
    def get(self, request: ApiRequest) -> Response:
        """Return the account at the first Git host that responds, or on this server if no host is connected."""
        refusal: Problem | None = None
        for host in self.hosts(request):
            try:
                return Response(asdict(host.user()))
            except Problem as error:
                refusal = refusal or error
        if refusal:
            raise refusal
        user = request.user
        account = {"id": str(user.pk), "login": user.email.partition("@")[0], "avatar_url": ""}
        return Response(account | {"company": None, "name": user.name or None, "email": user.email})


@RouteFacts(streams=True, replaced_by="/api/v1/integrations/{}/installations")
@extend_schema(tags=["compat"])
class InstallationsView(CompatView):
    """The values by which clients can filter repositories: app installations or accounts at the Git host."""

    @extend_schema(
        operation_id="compat_user_installations",
        responses=serializers.ListSerializer(child=serializers.CharField()),
    )
    def get(self, request: ApiRequest) -> Response:
        """Return the ids of installations, or the names of accounts, depending on the Git host."""
        hosts = self.hosts(request, require_text(request, "provider"))
        # The web client then requests the repositories of the first installation.
        return Response(hosts[0].installations() if hosts else [])


@RouteFacts(streams=True, replaced_by="/api/v1/integrations/{}/repositories")
@extend_schema(tags=["compat"])
class RepositoriesView(CompatView):
    """The caller's repositories at one Git host, or at all connected Git hosts."""

    @extend_schema(
        operation_id="compat_user_repositories", responses=CompatRepositorySerializer(many=True)
    )
    def get(self, request: ApiRequest) -> Response:
        """Return a page of repositories. If a Git host fails, leave its repositories out; if all fail, return an error.

        `link_header` is the `Link` header with which the Git host sent the page. The web client finds the next
        page in the `link_header` of the first repository.
        """
        params = request.query_params
        repositories: list[dict[str, Any]] = []
        hosts = self.hosts(request, params.get("selected_provider"))
        refusals: list[Problem] = []
        for host in hosts:
            try:
                page = host.repositories(
                    page=parse_number(request, "page", default=1, most=git_serializers.PAGES_MAX),
                    per_page=parse_number(request, "per_page", default=30, most=100),
                    sort=params.get("sort", "pushed"),
                    installation=_parse_installation(params.get("installation_id")),
                )
            except Problem as refusal:
                # One failing host must not hide the repositories of the others.
                refusals.append(refusal)
                continue
            repositories += [asdict(row) | {"link_header": page.link_header} for row in page.items]
        if refusals and len(refusals) == len(hosts):
            raise refusals[0]
        return Response(repositories)


def _parse_installation(text: str | None) -> str | None:
    is_name = text and len(text) <= 100 and text.replace("-", "").replace("_", "").isalnum()
    return text if is_name and text is not None and text.isascii() else None


@RouteFacts(streams=True, replaced_by="/api/v1/integrations/{}/repositories")
@extend_schema(tags=["compat"])
class SearchRepositoriesView(CompatView):
    """A search for repositories."""

    @extend_schema(
        operation_id="compat_user_search_repositories",
        responses=CompatRepositorySerializer(many=True),
    )
    def get(self, request: ApiRequest) -> Response:
        """Search repositories by words, by `owner/name` or by URL."""
        params = request.query_params
        repositories: list[dict[str, Any]] = []
        for host in self.hosts(request, params.get("selected_provider")):
            rows = host.search_repositories(
                query=params.get("query", "")[:200],
                per_page=parse_number(request, "per_page", default=5, most=100),
                sort=params.get("sort", "stars"),
                order=params.get("order", "desc"),
            )
            repositories += [asdict(row) | {"link_header": None} for row in rows]
        return Response(repositories)


@RouteFacts(streams=True, replaced_by="/api/v1/integrations/{}/branches")
@extend_schema(tags=["compat"])
class SearchBranchesView(CompatView):
    """A search for branches."""

    @extend_schema(
        operation_id="compat_user_search_branches",
        responses=git_serializers.BranchSerializer(many=True),
    )
    def get(self, request: ApiRequest) -> Response:
        """Search the branches of a repository by a part of their name."""
        repository = require_text(request, "repository")
        words = request.query_params.get("query", "")[:200]
        size = parse_number(request, "per_page", default=30, most=100)
        hosts = self.hosts(request, request.query_params.get("selected_provider"))
        rows = ask_first_host(
            hosts,
            lambda host: host.search_branches(repository=repository, query=words, per_page=size),
        )
        return Response([asdict(row) for row in rows or []])


@RouteFacts(streams=True, replaced_by="/api/v1/integrations/{}/suggested-tasks")
@extend_schema(tags=["compat"])
class SuggestedTasksView(CompatView):
    """Suggested tasks: pull requests and issues that wait for the caller."""

    @extend_schema(
        operation_id="compat_user_suggested_tasks",
        responses=git_serializers.SuggestedTaskSerializer(many=True),
    )
    def get(self, request: ApiRequest) -> Response:
        """Return the tasks at all connected Git hosts. A host that fails is left out."""
        tasks: list[dict[str, Any]] = []
        for host in self.hosts(request):
            with suppress(Problem):
                tasks += [asdict(task) for task in host.suggested_tasks()]
        return Response(tasks)


@RouteFacts(streams=True, replaced_by="/api/v1/integrations/{}/branches")
@extend_schema(tags=["compat"])
class BranchesView(CompatView):
    """The branches of a repository."""

    @extend_schema(operation_id="compat_user_branches", responses=BranchPageSerializer)
    def get(self, request: ApiRequest) -> Response:
        """Return a page of branches. `total_count` is always null."""
        repository = require_text(request, "repository")
        current = parse_number(request, "page", default=1, most=git_serializers.PAGES_MAX)
        size = parse_number(request, "per_page", default=30, most=100)
        page = ask_first_host(
            self.hosts(request),
            lambda host: host.branches(repository=repository, page=current, per_page=size),
        )
        return Response(
            {
                "branches": [asdict(row) for row in page.items] if page else [],
                "has_next_page": page.has_next if page else False,
                "current_page": current,
                "per_page": size,
                "total_count": None,
            }
        )


@RouteFacts(streams=True, replaced_by="/api/v1/integrations/{}/microagents")
@extend_schema(tags=["compat"])
class MicroagentsView(CompatView):
    """The microagents in a repository: files with instructions for agents."""

    @extend_schema(
        operation_id="compat_user_microagents",
        responses=git_serializers.MicroagentSerializer(many=True),
    )
    def get(self, request: ApiRequest, name: str) -> Response:
        """Return the microagents on the repository's default branch."""
        rows = ask_first_host(self.hosts(request), lambda host: host.microagents(repository=name))
        return Response([asdict(row) for row in rows or []])


@RouteFacts(streams=True, replaced_by="/api/v1/integrations/{}/microagents/content")
@extend_schema(tags=["compat"])
class MicroagentView(CompatView):
    """A microagent in a repository."""

    @extend_schema(
        operation_id="compat_user_microagent", responses=git_serializers.MicroagentContentSerializer
    )
    def get(self, request: ApiRequest, name: str) -> Response:
        """Return the microagent's text and triggers."""
        path = require_text(request, "file_path")
        microagent = ask_first_host(
            self.hosts(request), lambda host: host.microagent(repository=name, path=path)
        )
        if microagent is None:
            raise NoSuchRepository
        return Response(asdict(microagent))


# --- Tokens ---------------------------------------------------------------------


class ProviderTokenInputSerializer(serializers.Serializer[Any]):
    """A new token for a Git host."""

    token = serializers.CharField(
        required=False, allow_blank=True, allow_null=True, max_length=4_000
    )
    host = serializers.CharField(required=False, allow_blank=True, allow_null=True, max_length=255)


class ProviderTokensInputSerializer(serializers.Serializer[Any]):
    """Tokens by provider. The web client always sends all providers; an empty token keeps the stored token."""

    provider_tokens = serializers.DictField(child=ProviderTokenInputSerializer())


class Unauthenticated(Problem):
    """The Git host rejected a new token. Existing clients expect the status 401."""

    status = 401
    code = "provider-token-refused"


@RouteFacts(streams=True, replaced_by="/api/v1/provider-tokens/{}")
@extend_schema(tags=["compat"])
class AddView(GitHostMixin, GenericAPIView[Any]):
    """The route that stores new tokens for Git hosts."""

    permission = "integrations.edit"
    serializer_class = ProviderTokensInputSerializer

    @extend_schema(operation_id="compat_add_git_providers", responses=MESSAGE)
    def post(self, request: ApiRequest) -> Response:
        """Check and store every token in the request, or store none if a Git host rejects one."""
        organization = self.get_organization(request)
        body = self.get_serializer(data=request.data)
        body.is_valid(raise_exception=True)
        tokens = {
            name: entry
            for name, entry in body.validated_data["provider_tokens"].items()
            if (entry.get("token") or "").strip()
        }
        _store_tokens(request.user, organization, tokens)
        return Response({"message": "Git providers are connected"})


def _store_tokens(user: Any, organization: Organization, tokens: dict[str, dict[str, Any]]) -> None:
    # Ask the Git hosts before the transaction, which must not wait for other servers.
    hosts = {}
    for name, entry in tokens.items():
        host = entry.get("host")
        # Null keeps the host: otherwise a new token for a company's own Git host would be sent to the public one.
        if host is None:
            host = services.get_stored_host(
                user_id=user.pk, organization_id=organization.pk, provider_name=name
            )
        try:
            hosts[name], _ = services.check_token(
                provider_name=name, token=entry["token"], host_name=host
            )
        except TokenRefused as error:
            raise Unauthenticated(f"{name}: {error.detail}") from error
        except registry.UnknownProvider as error:
            raise BadQuery(f"{name[:40]}: {error.detail}") from error
    with transaction.atomic():
        for name, host in hosts.items():
            provider_tokens.set_provider_token(
                user=user,
                organization=organization,
                provider=name,
                token=tokens[name]["token"],
                host=host,
            )


@RouteFacts(replaced_by="/api/v1/provider-tokens/{}")
@extend_schema(tags=["compat"])
class UnsetView(GitHostMixin, GenericAPIView[Any]):
    """The route that removes all tokens for Git hosts."""

    permission = "integrations.edit"
    serializer_class = None

    @extend_schema(operation_id="compat_unset_provider_tokens", request=None, responses=MESSAGE)
    def post(self, request: ApiRequest) -> Response:
        """Delete the caller's tokens for all Git hosts. Safe to repeat."""
        organization = self.get_organization(request)
        user = request.user
        rows = provider_tokens.provider_tokens(user_id=user.pk, organization_id=organization.pk)
        for row in rows:
            provider_tokens.remove_provider_token(
                user=user, organization=organization, provider=row.provider
            )
        return Response({"message": "Git providers are disconnected"})
