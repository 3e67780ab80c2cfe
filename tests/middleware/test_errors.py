"""What fails before a view answers as problem details under ``/api/``."""

import pytest
from django.test import override_settings


def is_problem(response, status):
    body = response.json()
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    assert (body["status"], bool(body["error"]), body["request_id"]) == (
        status,
        True,
        response.headers["X-Request-ID"],
    )
    return body


def test_unknown_address(client, db):
    assert is_problem(client.get("/api/v1/nothing"), 404)["code"] == "not-found"


def test_unknown_host(client, db):
    is_problem(client.get("/api/v1/users/me", headers={"Host": "evil.example"}), 400)


@override_settings(DEBUG=True)
def test_unknown_host_while_debugging(client, db):
    response = client.get("/api/v1/users/me", headers={"Host": "evil.example"})

    assert "Traceback" not in is_problem(response, 400)["detail"]


@pytest.mark.parametrize("query", ["cursor=%00", "x=%00", "cursor=a\0"])
def test_nul_in_a_query(client, db, query):
    is_problem(client.get(f"/api/v1/api-keys?{query}"), 400)


def test_nul_in_a_path(client, db):
    is_problem(client.get("/api/v1/api-keys/%00"), 400)


def test_nul_in_the_query_of_a_page(client, db):
    response = client.get("/admin/login/?next=%00")

    assert response.status_code == 400
    assert "json" not in response.headers["Content-Type"]


def test_wrong_method(client, api):
    response = api.put("/api/v1/users/me", {}, format="json")

    assert is_problem(response, 405)["code"] == "method-not-allowed"
    assert "GET" in response.headers["Allow"]


def test_missing_csrf_token(alice):
    from django.test import Client

    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)

    response = client.post("/api/v1/api-keys", {"name": "a"}, content_type="application/json")

    assert is_problem(response, 403)


def test_fault_of_ours_says_nothing_about_itself(client, db, monkeypatch, caplog):
    from accounts.api.v1 import views

    def broken(*_args):
        raise RuntimeError("secret-canary")

    monkeypatch.setattr(views, "get_token", broken)
    client.raise_request_exception = False

    response = client.get("/api/v1/auth/csrf")

    assert "canary" not in is_problem(response, 500)["detail"]
    assert "secret-canary" in caplog.text


def test_database_away_is_503_and_asks_to_come_back(client, db, monkeypatch):
    from django.db import OperationalError

    from accounts.api.v1 import views

    def away(*_args):
        raise OperationalError

    monkeypatch.setattr(views, "get_token", away)

    response = client.get("/api/v1/auth/csrf")

    is_problem(response, 503)
    assert response.headers["Retry-After"] == "2"


def test_security_headers_stand_on_refusals_too(client, db):
    response = client.get("/api/v1/nothing")

    assert "script-src 'self'" in response.headers["Content-Security-Policy"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-store"
