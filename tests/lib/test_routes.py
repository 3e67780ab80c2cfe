"""Route facts: their declaration on views, and regular expressions that match all routes with a fact."""

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


def test_subclass_inherits_facts_or_replaces_all_of_them():
    assert facts_of(InheritingView.as_view()) == RouteFacts(streams=True)
    assert facts_of(OverridingView.as_view()) == RouteFacts(cost="spend")


def test_facts_of_an_action_replace_those_of_its_viewset():
    shared = ThingViewSet.as_view({"get": "list", "post": "create"})

    assert facts_of(shared) == RouteFacts(cost="spend")
    assert facts_of(ThingViewSet.as_view({"get": "retrieve"})) == RouteFacts(held="always")


def test_actions_of_one_address_with_different_facts_raise():
    with pytest.raises(ImproperlyConfigured, match="declare different facts"):
        facts_of(ThingViewSet.as_view({"put": "update", "delete": "destroy"}))


def test_unknown_fact_raises():
    with pytest.raises(TypeError):
        RouteFacts(stream=True)


def test_routes_of_routers_and_includes_are_listed():
    router = SimpleRouter(trailing_slash=False, use_regex_path=False)
    router.register("things", ThingViewSet, basename="thing")

    included = path("in/", include([path("page/<int:n>", page), *router.urls[:1]]))

    assert routes._routes_with_facts(included) == (
        ("page/<int:n>", RouteFacts(held="wait")),
        ("things", RouteFacts(cost="spend")),
    )


@pytest.mark.parametrize(
    ("routes_to_match", "expected"),
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
def test_expression_contains_common_prefixes_once(routes_to_match, expected):
    assert expression(routes_to_match) == expected
    for route in routes_to_match:
        address = "/" + re.sub(r"<[^>]+>", "1", route)
        assert re.fullmatch(expected, address)
        assert not re.fullmatch(expected, f"{address}/more")
