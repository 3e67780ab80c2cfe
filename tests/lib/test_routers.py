"""Routers: URL names chosen by viewsets, singletons, and the names of all URLs of the native API."""

from uuid import UUID

import pytest
from django.urls import reverse
from rest_framework.decorators import action
from rest_framework.viewsets import ViewSet

from lib.routers import Router, SingletonRouter

PK, SHARE = UUID(int=1), UUID(int=2)
ONE = f"/api/v1/conversations/{PK}"


class ThingViewSet(ViewSet):
    lookup_url_kwarg = "thing_id"
    lookup_value_converter = "uuid"
    url_names = {"destroy": "thing", "polish": "polished"}  # noqa: RUF012

    def list(self, request):
        pass

    def retrieve(self, request):
        pass

    def update(self, request):
        pass

    def destroy(self, request):
        pass

    @action(detail=True, methods=["post"])
    def polish(self, request):
        pass

    @action(detail=True, methods=["post"], url_path="paint/red")
    def paint(self, request):
        pass


def list_urls(router):
    """Return ``{path: (URL name, actions)}`` of a router."""
    return {str(p.pattern): (p.name, p.callback.actions) for p in router.urls}


def test_router_accepts_converters_in_prefixes_and_url_names_of_viewsets():
    router = Router()
    router.register("owners/<uuid:pk>/things", ThingViewSet, basename="item")
    base = "owners/<uuid:pk>/things"

    assert list_urls(router) == {
        base: ("item-list", {"get": "list"}),
        f"{base}/<uuid:thing_id>": (
            "thing",
            {"get": "retrieve", "put": "update", "delete": "destroy"},
        ),
        f"{base}/<uuid:thing_id>/polish": ("polished", {"post": "polish"}),
        f"{base}/<uuid:thing_id>/paint/red": ("item-paint", {"post": "paint"}),
    }


def test_singleton_router_creates_urls_without_a_lookup():
    router = SingletonRouter()
    router.register("owners/<uuid:pk>/thing", ThingViewSet, basename="it")

    assert {path: name for path, (name, _) in list_urls(router).items()} == {
        "owners/<uuid:pk>/thing": "thing",
        "owners/<uuid:pk>/thing/polish": "polished",
        "owners/<uuid:pk>/thing/paint/red": "it-paint",
    }


@pytest.mark.parametrize(
    ("name", "values", "path"),
    [
        ("conversation-list", {}, "/api/v1/conversations"),
        ("conversation-detail", {"pk": PK}, ONE),
        ("conversation-messages", {"pk": PK}, f"{ONE}/messages"),
        ("conversation-events", {"pk": PK}, f"{ONE}/events"),
        ("conversation-stream-events", {"pk": PK}, f"{ONE}/events/stream"),
        ("conversation-interrupt", {"pk": PK}, f"{ONE}/interrupt"),
        ("conversation-resume", {"pk": PK}, f"{ONE}/resume"),
        ("conversation-confirmation", {"pk": PK}, f"{ONE}/confirmation"),
        ("conversation-start-tasks", {"pk": PK}, f"{ONE}/start-tasks"),
        ("conversation-files", {"pk": PK}, f"{ONE}/files"),
        ("conversation-read-file", {"pk": PK}, f"{ONE}/files/content"),
        ("conversation-upload", {"pk": PK}, f"{ONE}/files/upload"),
        ("conversation-archive", {"pk": PK}, f"{ONE}/archive"),
        ("conversation-git-changes", {"pk": PK}, f"{ONE}/git/changes"),
        ("conversation-git-diff", {"pk": PK}, f"{ONE}/git/diff"),
        ("trajectory", {"pk": PK}, f"{ONE}/trajectory"),
        ("feedback-list", {"pk": PK}, f"{ONE}/feedback"),
        ("feedback", {"pk": PK, "seq": 4}, f"{ONE}/events/4/feedback"),
        ("share-list", {"pk": PK}, f"{ONE}/shares"),
        ("share", {"pk": PK, "share_id": SHARE}, f"{ONE}/shares/{SHARE}"),
        ("share-views", {"pk": PK, "share_id": SHARE}, f"{ONE}/shares/{SHARE}/views"),
        ("fork", {"pk": PK}, f"{ONE}/fork"),
        ("turn-list", {"pk": PK}, f"{ONE}/turns"),
        ("turn-diff", {"pk": PK, "number": 2}, f"{ONE}/turns/2/diff"),
        ("sandbox", {"pk": PK}, f"{ONE}/sandbox"),
        ("sandbox-start", {"pk": PK}, f"{ONE}/sandbox/start"),
        ("shared", {"token": "t"}, "/api/v1/shared/t"),
        ("shared-events", {"token": "t"}, "/api/v1/shared/t/events"),
        ("provider-token-list", {}, "/api/v1/provider-tokens"),
        ("provider-token", {"provider": "x"}, "/api/v1/provider-tokens/x"),
        ("integration-list", {}, "/api/v1/integrations"),
        ("integration-detail", {"provider": "x"}, "/api/v1/integrations/x"),
        ("git-user", {"provider": "x"}, "/api/v1/integrations/x/user"),
        ("git-installations", {"provider": "x"}, "/api/v1/integrations/x/installations"),
        ("git-repositories", {"provider": "x"}, "/api/v1/integrations/x/repositories"),
        ("git-branches", {"provider": "x"}, "/api/v1/integrations/x/branches"),
        ("suggested-tasks", {"provider": "x"}, "/api/v1/integrations/x/suggested-tasks"),
        ("microagents", {"provider": "x"}, "/api/v1/integrations/x/microagents"),
        ("microagent", {"provider": "x"}, "/api/v1/integrations/x/microagents/content"),
        ("pull-requests", {"provider": "x"}, "/api/v1/integrations/x/pull-requests"),
    ],
)
def test_url_name_is_reversed_to_its_path(name, values, path):
    assert reverse(f"v1:{name}", kwargs=values) == path
