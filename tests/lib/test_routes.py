"""Facts of routes are declared on views, and become expressions of the addresses that share them."""

import re

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.urls import include, path
from rest_framework.routers import SimpleRouter
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from lib import routes
from lib.routes import RouteFacts, expression, facts_of


@RouteFacts(streams=True)
class StreamingView(APIView):
    pass


class InheritingView(StreamingView):
    pass


@RouteFacts(cost="spend")
class OverridingView(StreamingView):
    pass


@RouteFacts(held="always")
class ThingViewSet(ViewSet):
    def list(self, request):
        pass

    @RouteFacts(cost="spend")
    def create(self, request):
        pass

    def retrieve(self, request, pk):
        pass

    @RouteFacts(streams=True)
    def update(self, request, pk):
        pass

    @RouteFacts(cost="keys")
    def destroy(self, request, pk):
        pass


@RouteFacts(held="wait")
def page(request):
    pass


def test_facts_are_read_from_functions_and_classes():
    assert facts_of(page) == RouteFacts(held="wait")
    assert facts_of(StreamingView.as_view()) == RouteFacts(streams=True)
    assert facts_of(APIView.as_view()) == RouteFacts()


def test_subclass_inherits_facts_or_declares_all_of_its_own():
    assert facts_of(InheritingView.as_view()) == RouteFacts(streams=True)
    assert facts_of(OverridingView.as_view()) == RouteFacts(cost="spend")


def test_actions_share_the_facts_of_their_address_and_replace_those_of_the_class():
    shared = ThingViewSet.as_view({"get": "list", "post": "create"})

    assert facts_of(shared) == RouteFacts(cost="spend")
    assert facts_of(ThingViewSet.as_view({"get": "retrieve"})) == RouteFacts(held="always")


def test_actions_that_differ_are_refused():
    with pytest.raises(ImproperlyConfigured, match="declare different facts"):
        facts_of(ThingViewSet.as_view({"put": "update", "delete": "destroy"}))


def test_unknown_fact_is_refused():
    with pytest.raises(TypeError):
        RouteFacts(stream=True)


def test_routers_and_includes_are_walked():
    router = SimpleRouter(trailing_slash=False, use_regex_path=False)
    router.register("things", ThingViewSet, basename="thing")

    included = path("in/", include([path("page/<int:n>", page), *router.urls[:1]]))

    assert routes._routes_with_facts(included) == (
        ("page/<int:n>", RouteFacts(held="wait")),
        ("things", RouteFacts(cost="spend")),
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "(?!)"),
        ([""], "/"),
        (["a"], "/a"),
        (["a", "a/b"], "/a(/b)?"),
        (["a/<uuid:pk>/x-y", "a/<uuid:pk>/z", "b.c"], r"/(a/[^/]+/(x-y|z)|b\.c)"),
        (["a/<path:p>/b"], "/a/.+/b"),
        (["", "a", "a/b", "a/c"], "/(|a(/(b|c))?)"),
    ],
)
def test_expression_writes_common_beginnings_once(given, expected):
    assert expression(given) == expected
    for route in given:
        address = "/" + re.sub(r"<[^>]+>", "1", route)
        assert re.fullmatch(expected, address)
        assert not re.fullmatch(expected, f"{address}/more")
