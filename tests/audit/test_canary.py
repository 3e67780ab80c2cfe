"""Planted secrets enter the server on every path; no stored or shown text contains one of them."""

import base64
import io
import logging
import re
import secrets
from urllib.parse import quote

import pytest
import redis
from django.conf import settings as configured
from django.contrib import admin
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.urls import reverse

from accounts import services
from accounts.models import CustomSecret, User
from billing import services as billing
from billing.models import ModelAccess
from conversations import services as conversations
from conversations.models import Conversation
from lib.logs import JSONFormatter, WithoutTokens
from openhands_site import openapi
from tests.audit import user_secrets
from tests.conftest import key_client
from tests.fakes.stack import figure

MIN_SECRETS = 95


class Planted(dict):
    """The planted secrets by a description."""

    def __call__(self, name, value=None):
        self[name] = value or f"Cn7{secrets.token_urlsafe(18)}"
        return self[name]

    def forms(self):
        """Yield ``(description, encoding, text)`` of each secret, and of the secret part of a key."""
        for name, value in self.items():
            parts = {value} | ({value.split(".", 1)[1]} if "." in value else set())
            for part in parts:
                raw = part.encode()
                yield name, "plain", part
                yield name, "base64", base64.b64encode(raw).decode().rstrip("=")[:-1]
                yield name, "base64 url", base64.urlsafe_b64encode(raw).decode().rstrip("=")[:-1]
                yield name, "url", quote(part, safe="")
                yield name, "hex", raw.hex()

    def hits(self, where, text):
        """Return a description of each secret in the text."""
        lower = text.lower()
        return [
            f"{name} ({form}) in {where}"
            for name, form, value in self.forms()
            if (value.lower() in lower if form == "hex" else value in text)
        ]


@pytest.fixture
def logged():
    """The log at level DEBUG, formatted as the console's handler does."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JSONFormatter())
    handler.addFilter(WithoutTokens())
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def plant(alice, settings):
    """Enter a new secret on every path. Return the secrets, a browser and an API client."""
    planted = Planted()
    settings.METRICS_TOKEN = planted("metrics token")
    planted("secret key", configured.SECRET_KEY)
    planted("encryption key", next(iter(configured.ENCRYPTION_KEYS.values())).hex())
    planted("pepper", next(iter(configured.TOKEN_PEPPERS.values())).hex())
    # Passwords
    User.objects.filter(pk=alice.pk).update(is_staff=True, is_superuser=True)
    alice.refresh_from_db()
    alice.set_password(planted("password"))
    alice.save()
    page, front = Client(), Client()
    form = {"email": alice.email, "password": planted["password"]}
    assert page.post("/sign-in", form).status_code == 302
    assert (
        front.post("/api/v1/auth/sign-in", form, content_type="application/json").status_code == 200
    )
    planted("session cookie of a page", page.cookies["sessionid"].value)
    planted("session cookie of the API", front.cookies["sessionid"].value)
    for name, path in (
        ("page", "/sign-in"),
        ("API", "/api/v1/auth/sign-in"),
        ("admin", "/admin/login/"),
    ):
        wrong = {
            "email": alice.email,
            "username": alice.email,
            "password": planted(f"wrong password, {name}"),
        }
        kind = {"content_type": "application/json"} if name == "API" else {}
        assert Client().post(path, wrong, **kind).status_code in (200, 401, 422)
    Client().post(
        "/sign-in", {"email": "nobody@example.com", "password": planted("a stranger's password")}
    )
    services.create_user(email="made@example.com", password=planted("password of a new user"))
    page.post(
        "/admin/accounts/user/add/",
        {"email": "desk@example.com", "name": "", "password": planted("password set by an admin")},
    )
    page.post(
        "/admin/accounts/user/add/",
        {"email": "bad", "password": planted("password of a refused form")},
    )
    assert User.objects.filter(email="desk@example.com").exists()
    # Setup links
    path = services.create_setup_link(email="first@example.com")
    planted("used setup link", path.removeprefix("/setup/"))
    fresh = services.create_setup_link()
    planted("unused setup link", fresh.removeprefix("/setup/"))
    assert Client().get(fresh).status_code == 200
    first = {
        "email": "first@example.com",
        "name": "First",
        "password": planted("password at the setup link"),
    }
    assert Client().post(path, first).status_code == 302
    assert Client().get(path).status_code == 404
    Client().get(f"/setup/{planted('invented setup link')}")
    # API keys
    api = key_client(alice)
    planted("API key of a service", api._credentials.get("HTTP_AUTHORIZATION", "") or _bearer(api))
    created = api.post("/api/v1/api-keys", {"name": "api"}, format="json").json()
    planted("API key of the API", created["key"])
    api.delete(f"/api/v1/api-keys/{created['id']}")
    shown = page.post(
        "/settings/api-keys", {"name": "page", "days": "30", "access": "full"}
    ).content.decode()
    planted("API key of a page", re.search(r"oh_[0-9a-f]{12}\.[\w-]{43}", shown)[0])
    Client().get("/api/v1/users/me", headers={"X-API-Key": planted["API key of a page"]})
    for name, header, value in (
        ("invented bearer key", "Authorization", "Bearer oh_0123456789ab.{}"),
        ("invented API key", "X-API-Key", "oh_0123456789ab.{}"),
        ("another's token", "Authorization", "Bearer {}"),
        ("basic credentials", "Authorization", "Basic {}"),
    ):
        Client().get("/api/v1/users/me", headers={header: value.format(planted(name))})
    # Model keys: by the API, by the page, and in refused requests
    access = {"base_url": "https://models.example.com/v1", "model": "m"}
    api.put(
        "/api/v1/settings/model-access",
        access | {"api_key": planted("replaced model key")},
        format="json",
    )
    api.put(
        "/api/v1/settings/model-access", access | {"api_key": planted("model key")}, format="json"
    )
    assert ModelAccess.objects.get(user=alice).api_key() == planted["model key"]
    api.put(
        "/api/v1/settings/model-access",
        {"model": "", "api_key": planted("model key refused")},
        format="json",
    )
    page.post(
        "/settings/model",
        access | {"base_url": "http://", "api_key": planted("model key of a refused page")},
    )
    page.post("/settings/model", access | {"api_key": planted("model key of a page")})
    # The gateway and sandboxes
    conversation = conversations.create_conversation(user=alice, message="Hello")
    planted("session key of a sandbox", conversation.sandbox.session_key())
    planted("secret key of a sandbox", conversation.sandbox.secret_key())
    token = billing.issue_gateway_token(
        organization_id=alice.personal_organization.pk,
        user_id=alice.pk,
        conversation_id=conversation.pk,
    )
    planted("gateway token", token)
    gateway = Client(headers={"Authorization": f"Bearer {token}"})
    assert gateway.get("/api/llm/v1/models").status_code == 200
    user_secrets.plant(
        planted, user=alice, api=api, page=page, conversation=conversation, gateway=gateway
    )
    ModelAccess.objects.all().delete()
    gateway.post(
        "/api/llm/v1/chat/completions", {"model": "demo", "messages": [{"role": "user", "content": "hi"}]},
        content_type="application/json",
    )  # fmt: skip
    Client().get(
        "/api/llm/v1/models",
        headers={
            "Authorization": f"Bearer ogt_0123456789abcdef.{planted('invented gateway token')}"
        },
    )
    # Places where secrets do not belong: addresses, cookies, headers, bodies of refused requests
    for n, path in enumerate(
        ("/", "/api/v1/users/me", "/api/v1/nothing", "/api/v1/audit", "/metrics")
    ):
        front.get(f"{path}?token={planted(f'token in a query {n}')}")
    front.get("/", headers={"Cookie": f"other={planted('an unknown cookie')}"})
    front.get("/", headers={"X-Forwarded-Authorization": planted("an unknown header")})
    api.post(
        "/api/v1/api-keys", {"name": "x", "scopes": [planted("a token as a scope")]}, format="json"
    )
    api.post(
        "/api/v1/auth/sign-in",
        f'{{"password": "{planted("password in broken JSON")}"',
        content_type="application/json",
    )
    Client().get(
        "/metrics", headers={"Authorization": f"Bearer {planted('invented metrics token')}"}
    )
    # A second sign-in and identity providers
    page.post("/sign-out")
    second = Client()
    second.post("/sign-in", form)
    planted("session cookie of a second sign-in", second.cookies["sessionid"].value)
    _plant_provider(planted, alice)
    return planted, second, api


def _bearer(api):
    [value] = [v for v in api.defaults.values() if str(v).startswith("Bearer ")]
    return value.removeprefix("Bearer ")


def _plant_provider(planted, alice):
    from accounts.models import Identity, IdentityProvider, OfflineToken

    provider = IdentityProvider(slug="p", name="P", issuer="https://id.example.com", client_id="c")
    provider.client_secret = planted("client secret of a provider")
    provider.save()
    identity = Identity.objects.create(
        user=alice, provider=provider, issuer=provider.issuer, sub="1"
    )
    token = OfflineToken(identity=identity)
    token.token = planted("offline token")
    token.save()


def dump_tables():
    """Yield ``(name, text)`` of each table as a backup contains it, with its binary values decoded."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT schemaname, tablename FROM pg_tables WHERE schemaname = 'public'")
        tables = [f'"{schema}"."{name}"' for schema, name in cursor.fetchall()]
        for table in tables:
            text = bytearray()
            with cursor.cursor.copy(f"COPY {table} TO STDOUT") as copy:
                for piece in copy:
                    text += bytes(piece)
            yield table, text.decode()
            yield f"{table}, bytes", _bytea(text.decode())


def _bytea(text):
    return b"".join(
        bytes.fromhex(digits) for digits in re.findall(r"\\\\x((?:[0-9a-f]{2})+)", text)
    ).decode("latin-1")


def dump_redis():
    client = redis.Redis.from_url(configured.REDIS_URL)
    readers = {
        b"string": client.get, b"hash": client.hgetall, b"set": client.smembers,
        b"list": lambda key: client.lrange(key, 0, -1), b"zset": lambda key: client.zrange(key, 0, -1),
        b"stream": client.xrange,
    }  # fmt: skip
    lines = []
    for key in client.scan_iter(count=1_000):
        value = readers[client.type(key)](key)
        lines.append(
            f"{key.decode('latin-1')} {value.decode('latin-1') if isinstance(value, bytes) else value}"
        )
    client.close()
    return "\n".join(lines)


def open_admin_pages(client):
    """Yield ``(address, response)`` of each list and of the page of each row."""
    for model in admin.site._registry:
        meta = model._meta
        listing = reverse(f"admin:{meta.app_label}_{meta.model_name}_changelist")
        yield listing, client.get(listing)
        for pk in model._default_manager.values_list("pk", flat=True)[:30]:
            path = reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[pk])
            yield path, client.get(path)


def open_pages(api, client):
    """Yield ``(address, response)`` of each GET of the API and the pages by the owner of the secrets."""
    row = Conversation.objects.first()
    conversation = row.pk
    secret = CustomSecret.objects.first().pk
    more, pages = user_secrets.list_addresses(row.organization_id, conversation, secret)
    for path in (
        "/api/v1/users/me", "/api/v1/api-keys", "/api/v1/audit?limit=100", "/api/v1/conversations",
        f"/api/v1/conversations/{conversation}", f"/api/v1/conversations/{conversation}/events",
        f"/api/v1/conversations/{conversation}/start-tasks", "/api/v1/settings/model-access",
        *more,
    ):  # fmt: skip
        response = api.get(path)
        assert response.status_code == 200, path
        yield path, response
    for path in (
        "/",
        "/settings",
        "/settings/api-keys",
        "/settings/model",
        f"/conversations/{conversation}",
        f"/conversations/{conversation}/details",
        *pages,
    ):
        response = client.get(path)
        assert response.status_code == 200, path
        yield path, response


@pytest.mark.django_db(transaction=True)  # The gateway queries from other threads.
def test_no_planted_secret_is_stored_or_shown(alice, settings, logged):
    cache.clear()
    redis.Redis.from_url(configured.REDIS_URL).flushdb()
    settings.SIGN_IN_RATE = "1000/m"
    settings.RATE_LIMITS = {"address": "9999/m", "read": "9999/m"}
    planted, client, api = plant(alice, settings)
    assert len(planted) >= MIN_SECRETS
    assert len(set(planted.values())) == len(planted)
    hits, searched = [], 0

    def search(where, text):
        nonlocal searched
        searched += len(text)
        hits.extend(planted.hits(where, text))

    for path, response in open_pages(api, client):
        search(path, response.content.decode())
    pages = 0
    for path, response in open_admin_pages(client):
        assert response.status_code == 200, path
        pages += 1
        search(path, response.content.decode())
    metrics = client.get("/metrics", headers={"Authorization": f"Bearer {settings.METRICS_TOKEN}"})
    assert metrics.status_code == 200
    search("metrics", metrics.content.decode())
    search("OpenAPI", openapi.document().decode())
    contents = dump_redis()
    assert contents.count("\n") > 3, "nothing in Redis was searched"
    search("Redis", contents)
    tables = dict(dump_tables())
    assert alice.email in tables['"public"."accounts_user"']
    for table, text in tables.items():
        search(table, text)
    lines = logged.getvalue()
    assert lines.count("\n") > 50
    search("logs", lines)

    figure(
        "canary",
        secrets=len(planted),
        admin_pages=pages,
        tables=len(tables) // 2,
        characters=searched,
        hits=len(hits),
    )
    assert not hits


def test_search_finds_a_secret_in_every_encoding():
    """The control of the search above."""
    planted = Planted()
    value = planted("a", "oh_0123456789ab.Secret-part_of/it")
    raw = value.encode()
    for text in (
        value, base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode(), quote(value, safe=""),
        raw.hex(), raw.hex().upper(), "Secret-part_of/it", base64.b64encode(b"Secret-part_of/it").decode(),
    ):  # fmt: skip
        assert planted.hits("x", f"before {text} after")
    assert not planted.hits("x", "oh_0123456789ab")


def test_stored_session_key_is_not_a_valid_cookie(client, alice):
    from django.contrib.sessions.models import Session

    client.force_login(alice)
    row = Session.objects.get()
    cookie = client.cookies["sessionid"].value
    assert row.session_key != cookie

    thief = Client()
    thief.cookies["sessionid"] = row.session_key
    assert thief.get("/settings").status_code == 302
    cache.clear()
    assert client.get("/settings").status_code == 200
    client.post("/sign-out")
    assert not Session.objects.exists()
    thief.cookies["sessionid"] = cookie
    assert thief.get("/settings").status_code == 302


def test_page_opens_while_redis_is_unreachable(client, alice, monkeypatch):
    client.force_login(alice)

    def refuse_connection(*_args, **_kwargs):
        raise redis.exceptions.ConnectionError

    monkeypatch.setattr(
        redis.connection.UnixDomainSocketConnection, "send_packed_command", refuse_connection
    )
    monkeypatch.setattr(redis.connection.Connection, "send_packed_command", refuse_connection)

    assert client.get("/settings").status_code == 200


@pytest.mark.parametrize("path", ["/setup/{}", "/api/v1/shared/{}/events", "/shared/{}"])
def test_token_of_a_link_is_removed_from_the_log(logged, path):
    logging.getLogger("django.request").error("Internal Server Error: %s", path.format("Cn7-x"))

    assert "Internal Server Error" in logged.getvalue()
    assert "Cn7-x" not in logged.getvalue()
