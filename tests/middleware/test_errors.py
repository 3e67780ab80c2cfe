"""Problem details under ``/api/`` for requests that fail before or inside a view."""

import pytest
from django.test import override_settings


def assert_problem(response, status):
    """Check that a response is a complete problem with a status; return its body."""
    body = response.json()
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    assert (body["status"], bool(body["error"]), body["request_id"]) == (
        status,
        True,
        response.headers["X-Request-ID"],
    )
    return body


def test_unknown_address_is_a_404_problem(client, db):
    assert assert_problem(client.get("/api/v1/nothing"), 404)["code"] == "not-found"


def test_unknown_host_is_a_400_problem(client, db):
    assert_problem(client.get("/api/v1/users/me", headers={"Host": "evil.example"}), 400)


@override_settings(DEBUG=True)
def test_unknown_host_is_a_problem_without_a_traceback_in_debug_mode(client, db):
    response = client.get("/api/v1/users/me", headers={"Host": "evil.example"})

    assert "Traceback" not in assert_problem(response, 400)["detail"]


@pytest.mark.parametrize("query", ["cursor=%00", "x=%00", "cursor=a\0"])
def test_nul_in_a_query_is_a_400_problem(client, db, query):
    assert_problem(client.get(f"/api/v1/api-keys?{query}"), 400)


def test_nul_in_a_path_is_a_400_problem(client, db):
    assert_problem(client.get("/api/v1/api-keys/%00"), 400)


def test_nul_in_the_query_of_a_page_is_a_400_page(client, db):
    response = client.get("/admin/login/?next=%00")

    assert response.status_code == 400
    assert "json" not in response.headers["Content-Type"]


def test_wrong_method_is_a_405_problem_with_the_allowed_methods(client, api):
    response = api.put("/api/v1/users/me", {}, format="json")

    assert assert_problem(response, 405)["code"] == "method-not-allowed"
    assert "GET" in response.headers["Allow"]


def test_missing_csrf_token_is_a_403_problem(alice):
    from django.test import Client

    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)

    response = client.post("/api/v1/api-keys", {"name": "a"}, content_type="application/json")

    assert assert_problem(response, 403)


def test_unexpected_exception_is_logged_but_not_shown(client, db, monkeypatch, caplog):
    from accounts.api.v1 import views

    def raise_runtime_error(*_args):
        raise RuntimeError("secret-canary")

    monkeypatch.setattr(views, "get_token", raise_runtime_error)
    client.raise_request_exception = False

    response = client.get("/api/v1/auth/csrf")

    assert "canary" not in assert_problem(response, 500)["detail"]
    assert "secret-canary" in caplog.text


def test_unreachable_database_is_a_503_problem_with_retry_after(client, db, monkeypatch):
    from django.db import OperationalError

    from accounts.api.v1 import views

    def raise_operational_error(*_args):
        raise OperationalError

    monkeypatch.setattr(views, "get_token", raise_operational_error)

    response = client.get("/api/v1/auth/csrf")

    assert_problem(response, 503)
    assert response.headers["Retry-After"] == "2"


def test_problem_has_security_headers(client, db):
    response = client.get("/api/v1/nothing")

    assert "script-src 'self'" in response.headers["Content-Security-Policy"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-store"
