"""Secrets that users enter into the server, planted for ``test_canary``.

They are in settings, custom secrets, provider tokens, share links and conversation keys.
"""

import json
from datetime import timedelta

from django.test import Client
from django.utils import timezone

from accounts.models import ProviderToken
from accounts.services import provider_tokens
from conversations.models import Event, Lease
from conversations.services import keys, redaction
from tests.conversations.conftest import ingest, make_frame

JSON = {"format": "json"}


def plant(planted, *, user, api, page, conversation, gateway):
    """Submit new secrets and add each one to ``planted``.

    ``api`` and ``page`` are clients of the user, ``gateway`` is a client with the sandbox's token.
    """
    organization = user.personal_organization
    _settings(planted, api, page, organization)
    names = _secrets(planted, api, page)
    _provider_tokens(planted, user, api, page, organization)
    for name in names:
        answer = gateway.get(f"/api/sandbox/secrets/{name}")
        assert (answer.status_code, answer.content.decode() in planted.values()) == (200, True)
    conversation.repository = {"provider": "github", "full_name": "octo/x"}
    conversation.save()
    answer = gateway.get("/api/sandbox/secrets/GITHUB_TOKEN")
    assert answer.content.decode() == planted["provider token, github"]
    _events(planted, conversation)
    _links(planted, api, conversation)
    _keys(planted, user, conversation)


def list_addresses(organization, conversation, secret):
    """Return the API addresses and the pages that show these secrets masked to their owner."""
    api = (
        "/api/v1/settings", "/api/settings", "/api/v1/secrets", "/api/secrets", f"/api/v1/secrets/{secret}/uses",
        "/api/v1/provider-tokens", f"/api/v1/organizations/{organization}/settings",
        f"/api/v1/conversations/{conversation}/shares", f"/api/v1/secrets/{secret}",
    )  # fmt: skip
    return api, ("/settings/agent", "/settings/secrets", "/settings/git-hosts")


def _servers(planted, where):
    return {
        "sse_servers": [],
        "shttp_servers": [
            {"url": "https://mcp.example.com/mcp", "api_key": planted(f"MCP key, {where}")}
        ],
        "stdio_servers": [
            {
                "name": "one",
                "command": "uvx",
                "args": ["x"],
                "env": {"KEY": planted(f"MCP env, {where}")},
            }
        ],
    }


def _settings(planted, api, page, organization):
    own, shared = "/api/v1/settings", f"/api/v1/organizations/{organization.pk}/settings"
    for path, where in ((own, "own"), (shared, "organization")):
        for state in ("replaced", "current"):
            values = {
                "search_api_key": planted(f"search key, {where}, {state}"),
                "mcp_config": _servers(planted, f"{where}, {state}"),
            }
            assert api.patch(path, {"values": values}, **JSON).status_code == 200
        bad = {"search_api_key": planted(f"search key, {where}, refused"), "agent": "none"}
        assert api.patch(path, {"values": bad}, **JSON).status_code == 400
        bad_servers = {"mcp_config": _servers(planted, f"{where}, refused") | {"other": []}}
        assert api.patch(path, {"values": bad_servers}, **JSON).status_code == 400
    flat = {
        "llm_model": "openai/m",
        "llm_api_key": planted("model key of a known client"),
        "search_api_key": planted("search key of a known client"),
        "mcp_config": _servers(planted, "known client"),
    }
    assert api.post("/api/settings", flat, **JSON).status_code == 200
    form = {"search_api_key": planted("search key of a page")}
    assert page.post("/settings/agent", form).status_code == 302
    form = {"search_api_key": planted("search key of a refused page") + "\n", "field": "agent"}
    page.post("/settings/agent", form | {"field": "max_iterations", "max_iterations": "x"})


def _secrets(planted, api, page):
    """Create custom secrets on every path and return the names that the sandbox may request."""
    path = "/api/v1/secrets"
    for scope in ("user", "organization"):
        body = {"name": f"OF_{scope}", "scope": scope, "value": planted(f"secret of {scope}, old")}
        created = api.post(path, body, **JSON)
        assert created.status_code == 201, created.content
        value = {"value": planted(f"secret of {scope}")}
        assert api.patch(f"{path}/{created.json()['id']}", value, **JSON).status_code == 200
        duplicate = body | {"value": planted(f"secret of {scope}, refused")}
        assert api.post(path, duplicate, **JSON).status_code == 409
    body = {"name": "2bad", "value": planted("secret with a bad name")}
    assert api.post(path, body, **JSON).status_code == 400
    body = {"name": "OF_CLIENT", "value": planted("secret of a known client")}
    assert api.post("/api/secrets", body, **JSON).status_code == 201
    form = {"name": "OF_PAGE", "value": planted("secret of a page")}
    assert page.post("/settings/secrets", form).status_code == 302
    form = {"name": "OF_PAGE", "value": planted("secret of a refused page")}
    assert page.post("/settings/secrets", form).status_code == 409
    return "OF_user", "OF_organization", "OF_CLIENT", "OF_PAGE"


def _provider_tokens(planted, user, api, page, organization):
    for provider in ProviderToken.Provider.values:
        for suffix in (", replaced", ""):
            provider_tokens.set_provider_token(
                user=user,
                organization=organization,
                provider=provider,
                token=planted(f"provider token, {provider}{suffix}"),
            )
    body = {"token": planted("provider token, unknown host"), "host": "ftp://x"}
    assert api.put("/api/v1/provider-tokens/github", body, **JSON).status_code == 422
    tokens = {"gitlab": {"token": planted("provider token of a known client"), "host": ""}}
    answer = api.post("/api/add-git-providers", {"provider_tokens": tokens}, **JSON)
    assert answer.status_code == 400
    form = {"token": planted("provider token of a page"), "host": "ftp://x"}
    assert page.post("/settings/git-hosts", form).status_code == 422


def _events(planted, conversation):
    """Store an event in which the agent prints two of the secrets."""
    text = " ".join([planted["secret of user"], planted["provider token, github"]])
    Lease.objects.filter(conversation=conversation).update(owner="m", generation=1, following_run=1)
    redaction.clear_cache()
    assert ingest(conversation, make_frame(0, text=text)) == 1
    assert "<secret_hidden>" in json.dumps([row.payload for row in Event.objects.all()])


def _links(planted, api, conversation):
    ends = {"expires_at": (timezone.now() + timedelta(days=1)).isoformat()}
    base = f"/api/v1/conversations/{conversation.pk}/shares"
    links = [api.post(base, ends, **JSON).json() for _ in range(2)]
    planted("share link", links[0]["token"])
    planted("revoked share link", links[1]["token"])
    assert api.delete(f"{base}/{links[1]['id']}").status_code == 200
    tokens = (links[0]["token"], links[1]["token"], planted("invented share link"))
    for token, status in zip(tokens, (200, 404, 404), strict=True):
        for path in ("/api/v1/shared/{}", "/api/v1/shared/{}/events", "/shared/{}"):
            assert Client().get(path.format(token)).status_code == status


def _keys(planted, user, conversation):
    key = planted("conversation key", keys.conversation_key(conversation=conversation, user=user))
    base = f"/api/v1/events/count?conversation_id__eq={conversation.pk}"
    assert Client().get(base, headers={"X-Session-API-Key": key}).status_code == 200
    Client().get(f"/api/conversations/{conversation.pk}?session_api_key={key}")
    head = key.partition(".")[0]
    wrong = f"{head}.{planted('invented conversation key')}"
    assert Client().get(base, headers={"X-Session-API-Key": wrong}).status_code == 401
    Client().get(f"/api/conversations/{conversation.pk}?session_api_key={wrong}")
