"""A method that a route does not have is 405, whatever formats the client accepts."""

import pytest
from django.urls import URLPattern, URLResolver, get_resolver
from rest_framework.test import APIClient
from rest_framework.views import APIView

pytestmark = pytest.mark.django_db
ACCEPTS = ("text/event-stream", "text/html", "image/png", "application/xml;q=0.9", "x")
METHODS = ("get", "post", "put", "patch", "delete")
PLACEHOLDER = "00000000-0000-7000-8000-000000000001"


@pytest.mark.parametrize("accept", ACCEPTS)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("delete", "/api/settings"),
        ("put", "/api/conversations"),
        ("get", "/api/v1/app-conversations/stream-start"),
        ("post", "/api/v1/events/search"),
        ("patch", "/api/v1/secrets"),
        ("get", "/api/reset-settings"),
        ("post", "/api/options/models"),
    ],
)
def test_unknown_method_is_405(api, method, path, accept):
    response = getattr(api, method)(path, headers={"Accept": accept})

    assert response.status_code == 405, response.content
    assert response.headers["Allow"]


def test_known_method_without_an_accepted_format_is_406(api):
    assert api.get("/api/settings", headers={"Accept": "image/png"}).status_code == 406


def test_unknown_method_without_credentials_asks_for_them():
    response = APIClient().put("/api/settings", headers={"Accept": "text/event-stream"})

    assert response.status_code == 401


def list_views(patterns, prefix=""):
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from list_views(pattern.url_patterns, prefix)
        elif isinstance(pattern, URLPattern):
            view = getattr(pattern.callback, "cls", None)
            if isinstance(view, type) and issubclass(view, APIView):
                yield pattern.callback


def test_no_route_answers_406_to_a_method_that_it_does_not_have(rf, alice, django_user_model):
    """Call every API view directly with every method, so that no route is left out."""
    wrong = []
    for callback in list_views(get_resolver().url_patterns):
        allowed = set(getattr(callback, "actions", None) or ()) or {
            method for method in METHODS if hasattr(callback.cls, method)
        }
        for method in sorted(set(METHODS) - allowed):
            request = getattr(rf, method)("/", headers={"Accept": "image/png"})
            if callback(request).status_code == 406:
                wrong.append((callback.cls.__name__, method))
    assert wrong == []
