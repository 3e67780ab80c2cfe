"""``/api/user/…``, ``/api/add-git-providers`` and ``/api/unset-provider-tokens``.

Their faults are mended on the way: a missing page is the first, every token is looked at and not only the last,
a host that is away costs nobody the token, and 401 means the caller alone: who has connected nothing gets
empty lists, and a token that the host refuses any more is 409 with a sentence.
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
from integrations.api.v1 import serializers as shapes
from integrations.api.v1.mixins import GitHostMixin
from integrations.provider import GitProvider, NoSuchRepository, TokenRefused
from lib.problems import Problem
from lib.routes import RouteFacts

MESSAGE = inline_serializer("GitMessage", {"message": serializers.CharField()})
T = TypeVar("T")
DIGITS = 18


class CompatRepositorySerializer(shapes.GitRepositorySerializer):
    link_header = serializers.CharField(allow_null=True)


class BranchPageSerializer(serializers.Serializer[Any]):
    branches = shapes.BranchSerializer(many=True)
    has_next_page = serializers.BooleanField()
    current_page = serializers.IntegerField()
    per_page = serializers.IntegerField()
    total_count = serializers.IntegerField(allow_null=True)


class BadQuery(Problem):
    """A parameter that cannot be; the sentence names it."""

    code = "bad-query"


class CompatView(GitHostMixin, GenericAPIView[Any]):
    """Their common reading of the query, which ignores what it does not know."""

    permission = "integrations.view"
    serializer_class: Any = serializers.Serializer
    pagination_class = None

    def hosts(self, request: ApiRequest, wanted: str | None = None) -> list[GitProvider]:
        """The connected Git hosts, or the one wanted; none where nothing is connected."""
        organization = self.get_organization(request)
        if wanted and wanted not in shapes.PROVIDERS:
            raise BadQuery(f"There is no provider {wanted[:40]!r}.")
        user = request.user
        names = services.connected(user_id=user.pk, organization_id=organization.pk)
        return [
            services.provider_for(user_id=user.pk, organization_id=organization.pk, provider=name)
            for name in names
            if not wanted or name == wanted
        ]


def number(request: Request, name: str, *, default: int, most: int) -> int:
    """A whole number of the query from 1 to ``most``; ``default`` where it is missing or none."""
    text = request.query_params.get(name, "")
    is_number = text.isascii() and text.isdecimal() and len(text) <= DIGITS
    return min(int(text), most) if is_number and int(text) else default


def required(request: Request, name: str) -> str:
    """A text of the query. Raises ``BadQuery`` where it is missing."""
    text: str = request.query_params.get(name, "").strip()
    if not text or len(text) > 1_000:
        raise BadQuery(f"The parameter {name} is missing.")
    return text


def first_that_has(hosts: list[GitProvider], ask: Callable[[GitProvider], T]) -> T | None:
    """The first host's answer that has the repository; None where there is no host."""
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
    """Who the caller is at the first Git host that answers."""

    @extend_schema(operation_id="compat_user_info", responses=shapes.GitUserSerializer)
    def get(self, request: ApiRequest) -> Response:
        """The account at the Git host, or the one here."""
        refusal: Problem | None = None
        for host in self.hosts(request):
            try:
                return Response(asdict(host.user()))
            except Problem as error:
                refusal = refusal or error
        if refusal:
            raise refusal
        user = request.user
        told = {"id": str(user.pk), "login": user.email.partition("@")[0], "avatar_url": ""}
        return Response(told | {"company": None, "name": user.name or None, "email": user.email})


@RouteFacts(streams=True, replaced_by="/api/v1/integrations/{}/installations")
@extend_schema(tags=["compat"])
class InstallationsView(CompatView):
    """What a Git host's repositories can be narrowed to."""

    @extend_schema(
        operation_id="compat_user_installations",
        responses=serializers.ListSerializer(child=serializers.CharField()),
    )
    def get(self, request: ApiRequest) -> Response:
        """Ids of installations or names of accounts."""
        hosts = self.hosts(request, required(request, "provider"))
        return Response(hosts[0].installations() if hosts else [])


@RouteFacts(streams=True, replaced_by="/api/v1/integrations/{}/repositories")
@extend_schema(tags=["compat"])
class RepositoriesView(CompatView):
    """Repositories of one Git host, or of all."""

    @extend_schema(
        operation_id="compat_user_repositories", responses=CompatRepositorySerializer(many=True)
    )
    def get(self, request: ApiRequest) -> Response:
        """A page; the first row's `link_header` names the next."""
        params = request.query_params
        found: list[dict[str, Any]] = []
        hosts = self.hosts(request, params.get("selected_provider"))
        refusals: list[Problem] = []
        for host in hosts:
            try:
                page = host.repositories(
                    page=number(request, "page", default=1, most=shapes.PAGES_MAX),
                    per_page=number(request, "per_page", default=30, most=100),
                    sort=params.get("sort", "pushed"),
                    installation=_installation(params.get("installation_id")),
                )
            except Problem as refusal:
                refusals.append(refusal)
                continue
            found += [asdict(row) | {"link_header": page.link_header} for row in page.items]
        if refusals and len(refusals) == len(hosts):
            raise refusals[0]
        return Response(found)


def _installation(text: str | None) -> str | None:
    is_name = text and len(text) <= 100 and text.replace("-", "").replace("_", "").isalnum()
    return text if is_name and text is not None and text.isascii() else None


@RouteFacts(streams=True, replaced_by="/api/v1/integrations/{}/repositories")
@extend_schema(tags=["compat"])
class SearchRepositoriesView(CompatView):
    """Repositories by words."""

    @extend_schema(
        operation_id="compat_user_search_repositories",
        responses=CompatRepositorySerializer(many=True),
    )
    def get(self, request: ApiRequest) -> Response:
        """By words, by `owner/name` or by address."""
        params = request.query_params
        found: list[dict[str, Any]] = []
        for host in self.hosts(request, params.get("selected_provider")):
            rows = host.search_repositories(
                query=params.get("query", "")[:200],
                per_page=number(request, "per_page", default=5, most=100),
                sort=params.get("sort", "stars"),
                order=params.get("order", "desc"),
            )
            found += [asdict(row) | {"link_header": None} for row in rows]
        return Response(found)


@RouteFacts(streams=True, replaced_by="/api/v1/integrations/{}/branches")
@extend_schema(tags=["compat"])
class SearchBranchesView(CompatView):
    """Branches by a part of their name."""

    @extend_schema(
        operation_id="compat_user_search_branches", responses=shapes.BranchSerializer(many=True)
    )
    def get(self, request: ApiRequest) -> Response:
        """Of one repository."""
        repository = required(request, "repository")
        words = request.query_params.get("query", "")[:200]
        size = number(request, "per_page", default=30, most=100)
        hosts = self.hosts(request, request.query_params.get("selected_provider"))
        rows = first_that_has(
            hosts,
            lambda host: host.search_branches(repository=repository, query=words, per_page=size),
        )
        return Response([asdict(row) for row in rows or []])


@RouteFacts(streams=True, replaced_by="/api/v1/integrations/{}/suggested-tasks")
@extend_schema(tags=["compat"])
class SuggestedTasksView(CompatView):
    """What waits for the caller."""

    @extend_schema(
        operation_id="compat_user_suggested_tasks",
        responses=shapes.SuggestedTaskSerializer(many=True),
    )
    def get(self, request: ApiRequest) -> Response:
        """At all connected Git hosts; one that is away is left out."""
        found: list[dict[str, Any]] = []
        for host in self.hosts(request):
            with suppress(Problem):
                found += [asdict(task) for task in host.suggested_tasks()]
        return Response(found)


@RouteFacts(streams=True, replaced_by="/api/v1/integrations/{}/branches")
@extend_schema(tags=["compat"])
class BranchesView(CompatView):
    """Branches of a repository, in pages."""

    @extend_schema(operation_id="compat_user_branches", responses=BranchPageSerializer)
    def get(self, request: ApiRequest) -> Response:
        """A page of them."""
        repository = required(request, "repository")
        current = number(request, "page", default=1, most=shapes.PAGES_MAX)
        size = number(request, "per_page", default=30, most=100)
        page = first_that_has(
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
    """A repository's files of instructions for agents."""

    @extend_schema(
        operation_id="compat_user_microagents", responses=shapes.MicroagentSerializer(many=True)
    )
    def get(self, request: ApiRequest, name: str) -> Response:
        """Those of its default branch."""
        rows = first_that_has(self.hosts(request), lambda host: host.microagents(repository=name))
        return Response([asdict(row) for row in rows or []])


@RouteFacts(streams=True, replaced_by="/api/v1/integrations/{}/microagents/content")
@extend_schema(tags=["compat"])
class MicroagentView(CompatView):
    """One of them."""

    @extend_schema(
        operation_id="compat_user_microagent", responses=shapes.MicroagentContentSerializer
    )
    def get(self, request: ApiRequest, name: str) -> Response:
        """Its text and triggers."""
        path = required(request, "file_path")
        found = first_that_has(
            self.hosts(request), lambda host: host.microagent(repository=name, path=path)
        )
        if found is None:
            raise NoSuchRepository
        return Response(asdict(found))


# --- Tokens ---------------------------------------------------------------------


class GivenTokenSerializer(serializers.Serializer[Any]):
    token = serializers.CharField(
        required=False, allow_blank=True, allow_null=True, max_length=4_000
    )
    host = serializers.CharField(required=False, allow_blank=True, allow_null=True, max_length=255)


class GivenTokensSerializer(serializers.Serializer[Any]):
    """Tokens by provider; an empty one leaves what is there."""

    provider_tokens = serializers.DictField(child=GivenTokenSerializer())


class Unauthenticated(Problem):
    """The Git host does not know the token; this status is what existing clients expect."""

    status = 401
    code = "provider-token-refused"


@RouteFacts(streams=True, replaced_by="/api/v1/provider-tokens/{}")
@extend_schema(tags=["compat"])
class AddView(GitHostMixin, GenericAPIView[Any]):
    """Tokens for Git hosts, as existing clients send them."""

    permission = "integrations.edit"
    serializer_class = GivenTokensSerializer

    @extend_schema(operation_id="compat_add_git_providers", responses=MESSAGE)
    def post(self, request: ApiRequest) -> Response:
        """Connect all that are given or, when a Git host refuses one, none."""
        organization = self.get_organization(request)
        body = self.get_serializer(data=request.data)
        body.is_valid(raise_exception=True)
        given = {
            name: one
            for name, one in body.validated_data["provider_tokens"].items()
            if (one.get("token") or "").strip()
        }
        _add(request.user, organization, given)
        return Response({"message": "Git providers are connected"})


def _add(user: Any, organization: Organization, given: dict[str, dict[str, Any]]) -> None:
    hosts = {}
    for name, one in given.items():
        try:
            hosts[name], _ = services.check_token(
                provider=name, token=one["token"], host=one.get("host")
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
                token=given[name]["token"],
                host=host,
            )


@RouteFacts(replaced_by="/api/v1/provider-tokens/{}")
@extend_schema(tags=["compat"])
class UnsetView(GitHostMixin, GenericAPIView[Any]):
    """All tokens for Git hosts."""

    permission = "integrations.edit"
    serializer_class = None

    @extend_schema(operation_id="compat_unset_provider_tokens", request=None, responses=MESSAGE)
    def post(self, request: ApiRequest) -> Response:
        """Forget them. Safe to repeat."""
        organization = self.get_organization(request)
        user = request.user
        rows = provider_tokens.provider_tokens(user_id=user.pk, organization_id=organization.pk)
        for row in rows:
            provider_tokens.remove_provider_token(
                user=user, organization=organization, provider=row.provider
            )
        return Response({"message": "Git providers are disconnected"})
