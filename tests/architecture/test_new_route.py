"""What happens to somebody who adds a route and forgets its row."""

import pytest
from django.urls import clear_url_caches, path
from rest_framework.response import Response
from rest_framework.views import APIView

from openhands_site import urls
from tests.architecture.policy import POLICY
from tests.architecture.routes import http_routes, missing_rows


class ThrowAwayView(APIView):
    permission = "account.view"

    def get(self, request):
        return Response({})

    def delete(self, request):
        return Response(status=204)


@pytest.fixture
def throw_away(monkeypatch):
    added = path("api/v1/throw-away", ThrowAwayView.as_view())
    monkeypatch.setattr(urls, "urlpatterns", [*urls.urlpatterns, added])
    clear_url_caches()
    yield
    monkeypatch.undo()
    clear_url_caches()


def test_a_route_without_a_row_turns_the_policy_red(throw_away):
    assert missing_rows() == {"GET /api/v1/throw-away", "DELETE /api/v1/throw-away"}


def test_a_row_turns_it_green_again(throw_away, monkeypatch):
    for method in ("GET", "DELETE"):
        monkeypatch.setitem(POLICY, f"{method} /api/v1/throw-away", "account.view")

    assert missing_rows() == set()


def test_without_it_nothing_is_missing():
    assert missing_rows() == set()
    assert not [route for route in http_routes() if "throw-away" in route.path]
