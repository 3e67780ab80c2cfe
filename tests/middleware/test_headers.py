"""Security headers, allowed origins, CORS, the order of the middleware, and the access log."""

import json
import os
import subprocess
import sys

import pytest
from channels.testing import WebsocketCommunicator
from django.conf import settings as configured
from django.test import Client

from openhands_site.asgi import application
from openhands_site.middleware import access_log

COMMON = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
}


def assert_security_headers(response):
    for name, value in COMMON.items():
        assert response.headers[name] == value, name
    policy = response.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "style-src 'self';" in policy
    assert "'unsafe-eval'" not in policy
    assert "frame-ancestors 'none'" in policy
    assert len(response.headers["X-Request-ID"]) >= 8


@pytest.mark.parametrize("path", ["/", "/sign-in", "/settings", "/api/v1/users/me", "/nothing"])
def test_pages_and_the_api_have_security_headers_and_are_not_cached(client, alice, path):
    for browser in (Client(), client):
        response = browser.get(path)
        assert_security_headers(response)
        assert "no-store" in response.headers["Cache-Control"]
        client.force_login(alice)


def test_hsts_is_sent_only_over_https(client, db, settings):
    settings.SECURE_HSTS_SECONDS = 60

    assert "Strict-Transport-Security" not in client.get("/sign-in").headers
    assert "max-age=60" in client.get("/sign-in", secure=True).headers["Strict-Transport-Security"]


def test_static_file_may_be_cached(client, db):
    response = client.get("/static/css/base.css")

    response.close()

    assert response.status_code == 200
    assert "no-store" not in response.headers["Cache-Control"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.django_db(transaction=True)
async def test_socket_handshake_has_security_headers(settings):
    settings.SECURE_HSTS_SECONDS = 60

    async def accept_socket(scope, receive, send):
        await send({"type": "websocket.accept", "headers": [(b"x-own", b"1")]})

    from openhands_site.middleware.headers import SocketHeaders

    sent = []

    async def send(message):
        sent.append(message)

    await SocketHeaders(accept_socket)({"type": "websocket"}, None, send)

    assert dict(sent[0]["headers"]) == {
        b"x-own": b"1",
        b"x-content-type-options": b"nosniff",
        b"referrer-policy": b"same-origin",
        b"cache-control": b"no-store",
        b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
        b"strict-transport-security": b"max-age=60",
    }


# --- Origins that may open sockets ------------------------------------------------

ALLOWED_ORIGIN = "https://agents.example.com"
OTHER_ORIGINS = [
    "http://agents.example.com",
    "https://agents.example.com:443",
    "https://agents.example.com:8443",
    "http://agents.example.com:443",
    "https://agents.example.com/",
    "https://agents.example.com/x",
    "https://agents.example.com?x",
    "https://agents.example.com#x",
    "https://agents.example.com.",
    "https://agents.example.com.evil.example",
    "https://evil.example/https://agents.example.com",
    "https://evil-agents.example.com",
    "https://agents.example.com@evil.example",
    "https://user@agents.example.com",
    "https://example.com",
    "https://www.agents.example.com",
    "https://agents.example.org",
    "HTTPS://AGENTS.EXAMPLE.COM",
    "https://Agents.example.com",
    "//agents.example.com",
    "agents.example.com",
    "null",
    "",
    " ",
    "*",
    " https://agents.example.com",
    "https://agents.example.com ",
    "https://agents.example.com, https://evil.example",
    "https://agents.example.com\thttps://evil.example",
    "file://",
    "chrome-extension://agents.example.com",
    "https://agents.examp\xe9.com",
    "https://127.0.0.1",
    "https://[::1]",
]


async def open_socket(*headers):
    """Open a conversation's socket; return whether it was accepted, and the close code."""
    socket = WebsocketCommunicator(
        application,
        "/ws/v1/conversations/018f0000-0000-7000-8000-000000000000",
        headers=list(headers),
    )
    connected, code = await socket.connect()
    await socket.disconnect()
    return connected, code


@pytest.fixture
def allowed_origin(settings):
    settings.ALLOWED_ORIGINS = [ALLOWED_ORIGIN]


@pytest.mark.parametrize("origin", OTHER_ORIGINS)
@pytest.mark.parametrize(
    "other_headers", [(), ((b"authorization", b"Bearer oh_x.y"),)], ids=["cookie", "key"]
)
async def test_socket_of_an_origin_that_differs_from_the_allowed_one_is_refused(
    allowed_origin, origin, other_headers
):
    assert await open_socket((b"origin", origin.encode("latin-1")), *other_headers) == (False, 4403)


async def test_socket_with_two_origins_is_refused(allowed_origin):
    for pair in (
        (ALLOWED_ORIGIN, "https://evil.example"),
        ("https://evil.example", ALLOWED_ORIGIN),
    ):
        headers = [(b"origin", value.encode()) for value in pair]
        assert await open_socket(*headers) == (False, 4403)


async def test_socket_with_a_cookie_but_no_origin_is_refused(allowed_origin):
    assert await open_socket((b"cookie", b"sessionid=x")) == (False, 4403)


@pytest.mark.django_db(transaction=True)
async def test_anonymous_socket_of_the_allowed_origin_is_not_refused_for_its_origin(allowed_origin):
    # It is closed because it has no credentials, with another code.
    assert (await open_socket((b"origin", ALLOWED_ORIGIN.encode())))[1] != 4403


# --- CORS ---------------------------------------------------------------------------


@pytest.fixture
def cors_origin(settings):
    settings.CORS_ALLOWED_ORIGINS = ["https://ide.example.com"]


def send_preflight(origin, path="/api/v1/users/me"):
    return Client().options(
        path,
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization",
        },
    )


def test_allowed_cors_origin_may_read_the_api_with_a_key_and_without_cookies(cors_origin, api):
    preflight = send_preflight("https://ide.example.com")
    response = api.get("/api/v1/users/me", headers={"Origin": "https://ide.example.com"})

    for allowed in (preflight, response):
        assert allowed.status_code == 200
        assert allowed.headers["Access-Control-Allow-Origin"] == "https://ide.example.com"
        assert "Access-Control-Allow-Credentials" not in allowed.headers
        assert "origin" in allowed.headers["Vary"].lower()
    assert "authorization" in preflight.headers["Access-Control-Allow-Headers"]
    assert "x-ratelimit-remaining" in response.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize(
    "origin",
    [
        "http://ide.example.com",
        "https://ide.example.com:444",
        "https://ide.example.com.evil.example",
        "https://evil.example",
        "null",
    ],
)
def test_other_origin_gets_no_cors_headers(cors_origin, db, origin):
    response = send_preflight(origin)

    assert response.status_code == 200
    assert "Access-Control-Allow-Origin" not in response.headers


def test_page_has_no_cors_headers_for_an_allowed_origin(cors_origin, db):
    response = send_preflight("https://ide.example.com", path="/sign-in")

    assert response.status_code == 405
    assert "Access-Control-Allow-Origin" not in response.headers


# --- The whole pipeline ---------------------------------------------------------------------


def test_middleware_is_in_the_required_order():
    places = [
        configured.MIDDLEWARE.index(name)
        for name in (
            "django.middleware.security.SecurityMiddleware",
            "openhands_site.middleware.headers.SecurityHeaders",
            "openhands_site.middleware.access_log.RequestIdAndAccessLog",
            "openhands_site.static_files.StaticFiles",
            "openhands_site.middleware.lazy.Cors",
            "openhands_site.middleware.compression.Compression",
            "openhands_site.middleware.headers.CacheControl",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "accounts.sign_in.browser_sessions.SessionUserMiddleware",
            "openhands_site.middleware.maintenance.MaintenanceMode",
            "openhands_site.middleware.rate_limits.RateLimits",
        )
    ]

    assert places == sorted(places)


def test_maintenance_response_has_security_cors_and_cache_headers(cors_origin, db):
    from accounts.services import maintenance

    maintenance.set_maintenance(is_on=True)

    response = Client().get("/api/v1/users/me", headers={"Origin": "https://ide.example.com"})

    assert response.status_code == 503
    assert_security_headers(response)
    assert response.headers["Access-Control-Allow-Origin"] == "https://ide.example.com"
    assert response.headers["Cache-Control"] == "no-store"


def test_deployment_check_reports_no_issues():
    environment = os.environ | {
        "PUBLIC_URL": "https://agents.example.com",
        "ALLOWED_HOSTS": "agents.example.com",
        "SECRET_KEY": "k3J!vq2R" * 8,
        "LOG_FORMAT": "json",
    }
    result = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        cwd=configured.BASE_DIR, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip

    assert result.returncode == 0, result.stdout + result.stderr
    assert "no issues" in result.stdout + result.stderr


def test_access_log_record_names_the_route_and_the_user_but_no_secret(client, alice, caplog):
    client.force_login(alice)
    caplog.set_level("INFO", logger="access")

    client.get(
        "/settings?token=canary-in-query", headers={"Authorization": "Bearer canary-in-header"}
    )

    [record] = [r for r in caplog.records if r.name == "access"]
    assert (record.user, record.route, record.status) == (str(alice.pk), "settings", 200)
    assert record.duration_ms > 0
    assert "canary" not in json.dumps(record.__dict__, default=str)


def test_access_log_record_names_the_organization_of_a_key(api, alice, caplog):
    caplog.set_level("INFO", logger="access")

    api.get("/api/v1/users/me")

    [record] = [r for r in caplog.records if r.name == "access"]
    assert record.organization == str(alice.personal_organization.pk)


@pytest.mark.parametrize(
    ("path", "slow_seconds", "statuses"),
    [
        ("/sign-in", 1, []),
        ("/sign-in", 0, [200]),
        ("/api/v1/conversations", 1, [401]),
        ("/absent-page", 1, [404]),
        ("/alive", 0, []),
        ("/static/absent.css", 0, []),
    ],
)
def test_access_log_of_problems_has_only_slow_and_failed_requests(
    client, db, caplog, settings, monkeypatch, path, slow_seconds, statuses
):
    settings.ACCESS_LOG = "problems"
    monkeypatch.setattr(access_log, "SLOW_SECONDS", slow_seconds)
    caplog.set_level("INFO", logger="access")

    client.get(path)

    assert [r.status for r in caplog.records if r.name == "access"] == statuses


def test_setup_link_is_not_logged(client, db, caplog):
    caplog.set_level("DEBUG")

    response = client.get("/setup/canary-of-a-setup-link")

    assert response.status_code == 404
    assert "canary" not in caplog.text
