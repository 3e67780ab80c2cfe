"""CORS and messages for requests that do not use them, compared with the middleware of the packages."""

import pytest
from corsheaders.middleware import CorsMiddleware
from django.contrib import messages
from django.contrib.messages import get_messages
from django.contrib.sessions.backends.signed_cookies import SessionStore
from django.http import HttpResponse
from django.test import RequestFactory

from openhands_site.middleware.lazy import Cors, Messages


@pytest.mark.parametrize("path", ["/api/v1/settings", "/api/", "/api", "/", "/settings"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD"])
@pytest.mark.parametrize("origin", [None, "", "https://ide.example.com", "https://other.com"])
@pytest.mark.parametrize("vary", [None, "Cookie", "origin", "*"])
def test_cors_headers_are_those_of_the_package(settings, path, method, origin, vary):
    settings.CORS_ALLOWED_ORIGINS = ["https://ide.example.com"]
    headers = {} if origin is None else {"Origin": origin, "Access-Control-Request-Method": "GET"}

    def respond(kind):
        response = HttpResponse(headers={} if vary is None else {"Vary": vary})
        return kind(lambda _: response)(RequestFactory().generic(method, path, headers=headers))

    ours, package = respond(Cors), respond(CorsMiddleware)

    assert list(ours.headers.items()) == list(package.headers.items())


def handle_messages(view):
    request = RequestFactory().get("/")
    request.session = SessionStore()
    response = Messages(lambda request: view(request) or HttpResponse())(request)
    return request, response


def test_message_that_a_view_adds_is_stored_for_the_next_page():
    _, response = handle_messages(lambda request: messages.info(request, "Saved."))
    cookie = response.cookies["messages"].value

    request = RequestFactory().get("/")
    request.COOKIES["messages"] = cookie
    request.session = SessionStore()
    shown = []
    response = Messages(
        lambda request: shown.extend(map(str, get_messages(request))) or HttpResponse()
    )(request)

    assert shown == ["Saved."]
    assert response.cookies["messages"]["max-age"] == 0


def test_request_without_messages_creates_no_storage_and_no_cookie(monkeypatch):
    monkeypatch.setattr("openhands_site.middleware.lazy.default_storage", None)  # a call fails

    _, response = handle_messages(lambda request: None)

    assert "messages" not in response.cookies
