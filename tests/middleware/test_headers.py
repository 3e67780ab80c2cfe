"""What every answer carries: a page, the API, a static file, a refusal, a socket's handshake."""

import json
import os
import subprocess
import sys

import pytest
from channels.testing import WebsocketCommunicator
from django.conf import settings as configured
from django.test import Client

from openhands_site.asgi import application

COMMON = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
}


def assert_guarded(response):
    for name, value in COMMON.items():
        assert response.headers[name] == value, name
    policy = response.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "style-src 'self';" in policy
    assert "'unsafe-eval'" not in policy
    assert "frame-ancestors 'none'" in policy
    assert len(response.headers["X-Request-ID"]) >= 8


@pytest.mark.parametrize("path", ["/", "/sign-in", "/settings", "/api/v1/users/me", "/nothing"])
def test_pages_and_the_api(client, alice, path):
    for caller in (Client(), client):
        response = caller.get(path)
        assert_guarded(response)
        assert "no-store" in response.headers["Cache-Control"]
        client.force_login(alice)


def test_hsts_with_https_only(client, db, settings):
    settings.SECURE_HSTS_SECONDS = 60

    assert "Strict-Transport-Security" not in client.get("/sign-in").headers
    assert "max-age=60" in client.get("/sign-in", secure=True).headers["Strict-Transport-Security"]


def test_static_files_may_be_kept(client, db):
    response = client.get("/static/css/base.css")

    response.close()

    assert response.status_code == 200
    assert "no-store" not in response.headers["Cache-Control"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.django_db(transaction=True)
async def test_a_socket_handshake(settings):
    settings.SECURE_HSTS_SECONDS = 60

    async def accepting(scope, receive, send):
        await send({"type": "websocket.accept", "headers": [(b"x-own", b"1")]})

    from openhands_site.middleware.headers import SocketHeaders

    sent = []

    async def send(message):
        sent.append(message)

    await SocketHeaders(accepting)({"type": "websocket"}, None, send)

    assert dict(sent[0]["headers"]) == {
        b"x-own": b"1",
        b"x-content-type-options": b"nosniff",
        b"referrer-policy": b"same-origin",
        b"cache-control": b"no-store",
        b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
        b"strict-transport-security": b"max-age=60",
    }


# --- Where sockets may be opened from ---------------------------------------------

OURS = "https://agents.example.com"
FORMS = [
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


async def opens(*headers):
    reached = []
    socket = WebsocketCommunicator(
        application,
        "/ws/v1/conversations/018f0000-0000-7000-8000-000000000000",
        headers=list(headers),
    )
    connected, code = await socket.connect()
    reached.append((connected, code))
    await socket.disconnect()
    return reached[0]


@pytest.fixture
def ours(settings):
    settings.ALLOWED_ORIGINS = [OURS]


@pytest.mark.parametrize("origin", FORMS)
@pytest.mark.parametrize(
    "more", [(), ((b"authorization", b"Bearer oh_x.y"),)], ids=["cookie", "key"]
)
async def test_an_origin_that_is_not_exactly_ours_is_refused(ours, origin, more):
    assert await opens((b"origin", origin.encode("latin-1")), *more) == (False, 4403)


async def test_two_origins_are_refused(ours):
    for pair in ((OURS, "https://evil.example"), ("https://evil.example", OURS)):
        headers = [(b"origin", value.encode()) for value in pair]
        assert await opens(*headers) == (False, 4403)


async def test_no_origin_needs_a_key(ours):
    assert await opens((b"cookie", b"sessionid=x")) == (False, 4403)


@pytest.mark.django_db(transaction=True)
async def test_our_own_origin_gets_as_far_as_being_asked_who_it_is(ours):
    """Refused for being nobody, which is another code than for coming from elsewhere."""
    assert (await opens((b"origin", OURS.encode())))[1] != 4403


# --- CORS ---------------------------------------------------------------------------


@pytest.fixture
def friend(settings):
    settings.CORS_ALLOWED_ORIGINS = ["https://ide.example.com"]


def preflight(origin, path="/api/v1/users/me"):
    return Client().options(
        path,
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization",
        },
    )


def test_a_friendly_origin_may_read_the_api_with_a_key_and_without_cookies(friend, api):
    asked = preflight("https://ide.example.com")
    response = api.get("/api/v1/users/me", headers={"Origin": "https://ide.example.com"})

    for answer in (asked, response):
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == "https://ide.example.com"
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert "origin" in answer.headers["Vary"].lower()
    assert "authorization" in asked.headers["Access-Control-Allow-Headers"]
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
def test_others_may_not(friend, db, origin):
    assert "Access-Control-Allow-Origin" not in preflight(origin).headers


def test_pages_are_never_for_other_origins(friend, db):
    response = preflight("https://ide.example.com", path="/sign-in")

    assert "Access-Control-Allow-Origin" not in response.headers


# --- All together ---------------------------------------------------------------------


def test_the_order_of_the_pipeline():
    places = [
        configured.MIDDLEWARE.index(name)
        for name in (
            "django.middleware.security.SecurityMiddleware",
            "openhands_site.middleware.headers.SecurityHeaders",
            "openhands_site.middleware.access_log.RequestIdAndAccessLog",
            "corsheaders.middleware.CorsMiddleware",
            "openhands_site.middleware.headers.CacheControl",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "accounts.sign_in.browser_sessions.SessionUserMiddleware",
            "openhands_site.middleware.maintenance.MaintenanceMode",
            "openhands_site.middleware.rate_limits.RateLimits",
        )
    ]

    assert places == sorted(places)


def test_a_refusal_by_maintenance_carries_everything_before_it(friend, db):
    """Headers, request id, CORS and the cache's lifetime are on answers of what comes after them."""
    from accounts.services import maintenance

    maintenance.set_maintenance(is_on=True)

    response = Client().get("/api/v1/users/me", headers={"Origin": "https://ide.example.com"})

    assert response.status_code == 503
    assert_guarded(response)
    assert response.headers["Access-Control-Allow-Origin"] == "https://ide.example.com"
    assert response.headers["Cache-Control"] == "no-store"


def test_nothing_to_warn_about_in_deployment():
    environment = os.environ | {
        "PUBLIC_URL": "https://agents.example.com",
        "ALLOWED_HOSTS": "agents.example.com",
        "SECRET_KEY": "k3J!vq2R" * 8,
        "LOG_FORMAT": "json",
    }
    done = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        cwd=configured.BASE_DIR, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "no issues" in done.stdout + done.stderr


def test_a_log_line_names_the_route_and_the_caller_and_nothing_secret(client, alice, caplog):
    client.force_login(alice)
    caplog.set_level("INFO", logger="access")

    client.get(
        "/settings?token=canary-in-query", headers={"Authorization": "Bearer canary-in-header"}
    )

    [record] = [r for r in caplog.records if r.name == "access"]
    assert (record.user, record.route, record.status) == (str(alice.pk), "settings", 200)
    assert record.duration_ms > 0
    assert "canary" not in json.dumps(record.__dict__, default=str)


def test_a_log_line_names_the_organization_of_a_key(api, alice, caplog):
    caplog.set_level("INFO", logger="access")

    api.get("/api/v1/users/me")

    [record] = [r for r in caplog.records if r.name == "access"]
    assert record.organization == str(alice.personal_organization.pk)


def test_a_setup_link_is_not_in_the_log(client, db, caplog):
    caplog.set_level("DEBUG")

    client.get("/setup/canary-of-a-setup-link")

    assert "canary" not in caplog.text
