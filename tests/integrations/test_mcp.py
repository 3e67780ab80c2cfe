"""The MCP server, called by the client of the MCP SDK over a real web server."""

import asyncio
import threading
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from django.db import connections
from jsonschema import Draft202012Validator
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from rest_framework.test import APIClient

from accounts import services as accounts
from conversations import services as conversations
from conversations.models import Conversation
from integrations.mcp.tools import TOOLS
from openhands_site.asgi import application
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
ACCEPT = {"Accept": "application/json, text/event-stream"}


@contextmanager
def serve_web():
    """Serve the ASGI application in a thread; yield its address."""
    config = uvicorn.Config(application, port=0, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, "the web server to start", pause=0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        connections.close_all()


def call_tools(url, key, *calls, path="/mcp", **headers):
    """Connect with the SDK's client; return the names of the tools and the results of the calls."""

    async def run_session():
        all_headers = {"Authorization": f"Bearer {key}"} | headers
        async with (
            httpx.AsyncClient(headers=all_headers, timeout=30) as http,
            streamable_http_client(url + path, http_client=http) as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            names = [tool.name for tool in (await session.list_tools()).tools]
            return names, [await session.call_tool(name, body) for name, body in calls]

    return asyncio.run(run_session())


def create_key(user, **more):
    return accounts.issue_api_key(user=user, name="mcp", **more)[1]


def test_tools_start_steer_and_read_own_conversations_only(alice, charlie):
    foreign = conversations.create_conversation(user=charlie, title="Private")
    with serve_web() as url:
        names, [created] = call_tools(
            url, create_key(alice), ("start_conversation", {"message": "Say hi"})
        )
        target = {"conversation_id": created.structuredContent["id"]}
        _, [page, posted, detail, interrupted, hidden, incomplete, unknown] = call_tools(
            url,
            create_key(alice),
            ("list_conversations", {"limit": 5}),
            ("send_message", target | {"text": "And more"}),
            ("get_conversation", target | {"events": 5}),
            ("interrupt", target),
            ("get_conversation", {"conversation_id": str(foreign.pk)}),
            ("send_message", target),
            ("no_such_tool", {}),
            path="/mcp/mcp",
        )

    assert set(names) == set(TOOLS)
    conversation = Conversation.objects.get(pk=target["conversation_id"])
    assert (conversation.created_by, conversation.trigger) == (alice, "openhands_api")
    assert [row["id"] for row in page.structuredContent["items"]] == [str(conversation.pk)]
    assert posted.structuredContent["seq"] == conversation.last_seq
    assert [event["kind"] for event in detail.structuredContent["events"]] == ["UserMessage"] * 2
    assert not interrupted.isError
    assert hidden.isError
    assert hidden.content[0].text == "The conversation does not exist, or you have no access to it."
    assert incomplete.isError
    assert unknown.isError


def test_pull_request_is_stored_in_the_conversation_of_the_header(alice, connected, fake):
    fake.add("octo/r", branches=("fix",))
    conversation = conversations.create_conversation(user=alice, title="Work")
    body = {"repo_name": "octo/r", "source_branch": "fix", "target_branch": "main", "title": "Fix"}
    own = {"X-OpenHands-ServerConversation-ID": str(conversation.pk)}
    with serve_web() as url:
        _, [opened, repeated] = call_tools(
            url, create_key(alice), ("create_pr", body), ("create_pr", body), **own
        )

    conversation.refresh_from_db()
    assert opened.structuredContent == {"number": 7, "url": f"{fake.url}/octo/r/pull/7"}
    assert "already exists" in repeated.content[0].text
    assert conversation.pull_requests == [7]


def test_key_without_the_create_scope_starts_no_conversation(alice):
    with serve_web() as url:
        _, [listed, refused] = call_tools(
            url,
            create_key(alice, scopes=["conversations.view"]),
            ("list_conversations", {}),
            ("start_conversation", {"message": "x"}),
        )
    assert not listed.isError
    assert "lacks the scope conversations.create" in refused.content[0].text
    assert not Conversation.objects.exists()


class TestTransport:
    def post(self, **headers):
        return APIClient().post("/mcp", PING, format="json", headers=ACCEPT | headers)

    def test_anonymous_request_is_401_with_a_problem_body(self, db):
        response = self.post()
        assert response.status_code == 401
        assert response.headers["Content-Type"] == "application/problem+json"

    def test_key_is_accepted_in_either_header(self, alice):
        key = create_key(alice)
        for headers in ({"Authorization": f"Bearer {key}"}, {"X-Session-API-Key": key}):
            response = self.post(**headers)
            assert response.json() == {"jsonrpc": "2.0", "id": 1, "result": {}}

    def test_session_cookie_alone_is_401(self, alice, client):
        client.force_login(alice)
        assert client.post("/mcp", PING, "application/json", headers=ACCEPT).status_code == 401

    def test_request_from_another_origin_is_403(self, alice):
        response = self.post(
            Authorization=f"Bearer {create_key(alice)}", Origin="https://evil.example"
        )
        assert response.status_code == 403

    def test_get_is_405_and_invalid_json_is_400(self, alice):
        client = APIClient(headers={"Authorization": f"Bearer {create_key(alice)}"} | ACCEPT)
        assert client.get("/mcp").status_code == 405
        broken = client.post("/mcp", b"{", content_type="application/json")
        assert broken.status_code == 400


def test_internal_error_is_reported_without_its_text(alice, monkeypatch):
    def fail(**_):
        raise RuntimeError("SELECT secret FROM vault")

    monkeypatch.setattr(conversations, "create_conversation", fail)
    with serve_web() as url:
        _, [failed] = call_tools(url, create_key(alice), ("start_conversation", {"message": "x"}))

    assert failed.isError
    assert failed.content[0].text == "An unexpected error occurred on the server. Try again later."


@pytest.mark.parametrize(
    ("repository", "fits"), [("octo/r", True), ("octo/r\n", False), ("octo/../r", False)]
)
def test_schema_accepts_only_well_formed_repository_names(repository, fits):
    schema = TOOLS["start_conversation"].schema
    arguments = {"message": "x", "repository": repository}

    assert Draft202012Validator(schema).is_valid(arguments) is fits
