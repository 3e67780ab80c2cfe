"""The policy check itself: a new route without a row must be reported."""

import pytest
from django.urls import clear_url_caches, path
from rest_framework.response import Response
from rest_framework.views import APIView

from openhands_site import urls
from tests.architecture.policy import POLICY
from tests.architecture.routes import find_missing_rows, list_http_routes


class TemporaryView(APIView):
    permission = "account.view"

    def get(self, request):
        return Response({})

    def delete(self, request):
        return Response(status=204)


@pytest.fixture
def temporary_route(monkeypatch):
    route = path("api/v1/temporary", TemporaryView.as_view())
    monkeypatch.setattr(urls, "urlpatterns", [*urls.urlpatterns, route])
    clear_url_caches()
    yield
    monkeypatch.undo()
    clear_url_caches()


def test_route_without_a_row_is_reported(temporary_route):
    assert find_missing_rows() == {"GET /api/v1/temporary", "DELETE /api/v1/temporary"}


def test_route_with_a_row_is_not_reported(temporary_route, monkeypatch):
    for method in ("GET", "DELETE"):
        monkeypatch.setitem(POLICY, f"{method} /api/v1/temporary", "account.view")

    assert find_missing_rows() == set()


def test_without_the_temporary_route_nothing_is_reported():
    assert find_missing_rows() == set()
    assert not [route for route in list_http_routes() if "temporary" in route.path]
