"""No operation answers an odd value with a server error, whichever part of the request contains it.

Each part of a valid request (values of the path, parameters, fields of the body at any depth, the body, headers and the
method) is replaced in turn. ``tests/odd_values.py`` has the values. The quick test sends a few values for each part;
``ODD_VALUES=-1 make test-slow ARGS=tests/api/test_odd_values.py`` sends all of them.
"""

import re
from datetime import timedelta

import pytest
from django.core.cache import cache
from django.utils import timezone

from accounts import services as accounts
from accounts.services import devices
from billing.services import issue_gateway_token
from conversations import services
from conversations.models import Conversation
from integrations import services as git_hosts
from tests.api.odd_operations import HEADERS, HINTS, Operation, operations
from tests.architecture import world
from tests.factories.billing import ConversationUsageFactory
from tests.factories.conversations import HostRuleFactory
from tests.fakes import github
from tests.fakes.stack import figure
from tests.odd_requests import SHARE, VALUES, Sender, Tally, sample

pytestmark = [pytest.mark.django_db, pytest.mark.filterwarnings("ignore")]
INTENDED: tuple[tuple[str, str], ...] = (
    (
        r"^/api/(bash|conversations/[^/]+)/",
        "not-served",
    ),  # routes of the engine that this server refuses
    (
        r"^/api/v1/provider-tokens/|^/api/add-git-providers|^/mcp",
        "git-host-away",
    ),  # a host that nobody can reach
)
"""Paths and codes of intended responses with a status of 500 or more."""


@pytest.fixture
def existing(settings):
    settings.RATE_LIMITS = {}
    settings.SIGN_IN_RATE = "100000/m"
    settings.UPSTREAM_ALLOW_PRIVATE = True
    cache.clear()
    return world.build()


@pytest.fixture
def conversation(existing) -> Conversation:
    """Return a conversation of the team's owner."""
    return services.create_conversation(
        user=existing.shared.created_by, organization=existing.team, title="Odd", message="Hello"
    )


@pytest.fixture
def own(existing, tmp_path, running):
    """Return the values of the parameters by name, and the values of ``id`` by kind of route."""
    owner, team = existing.shared.created_by, existing.team
    accounts.create_user(email="signer@example.com", password="correct horse battery")
    share, link = services.create_share(
        user=owner, conversation=running, expires_at=timezone.now() + timedelta(days=1)
    )
    HostRuleFactory(conversation=running, host="rule.example", decided_by=owner)
    ConversationUsageFactory(conversation_id=running.pk, organization=team, calls=1)
    HINTS["device_code"] = devices.start_device_sign_in(client_name="tool").device_code
    HINTS["expires_at"] = (timezone.now() + timedelta(days=1)).isoformat()
    HEADERS["/api/v1/webhooks/"] = (("X-Session-API-Key", running.sandbox.session_key()),)
    path = f"/api/v1/app-conversations?ids={running.pk}"
    key = existing.clients["full key"].get(path).json()[0]["session_api_key"]
    for start in ("/api/file/", "/api/git/", "/api/bash/"):
        HEADERS[start] = (("X-Session-API-Key", key),)
    with github.running(tmp_path) as host:
        host.add(
            "octo/private", {".openhands/microagents/a.md": "---\n---\nx"}, branches=("feature",)
        )
        git_hosts.connect(
            user=owner, organization=team, provider_name="github", token=github.TOKEN, host_name=host.host
        )  # fmt: skip
        HINTS["host"], HINTS["token"] = host.host, github.TOKEN
        HINTS["provider_tokens"] = {"github": {"token": github.TOKEN, "host": host.host}}
        ids = existing.own | {
            "id": running.pk, "conversation_id": running.pk, "sandbox_id": running.sandbox_id, "sandboxes": running.sandbox_id,
            "share_id": share.pk, "shared/token": link.rpartition("/")[2], "organization": team.pk, "user": existing.own["user_id"],
            "route": "condense", "bash/route": "execute_bash_command", "path": "a.txt", "conversation": running.pk,
            "user/name": "octo/private", "host": "rule.example",
        }  # fmt: skip
        yield {name: str(value) for name, value in ids.items()}


def gateway_operations(own, conversation) -> list[Operation]:
    body = {"model": "demo", "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}, {"role": "assistant", "content": "x", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "a", "arguments": "{}"}}]}], "stream": False, "max_tokens": 5, "temperature": 0.5, "stop": ["x"], "tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "object", "properties": {}}}}], "stream_options": {"include_usage": True}, "metadata": {"a": "b"}, "user": "x", "n": 1}  # fmt: skip
    return [
        Operation("POST", "/api/llm/v1/chat/completions", {}, {}, body),
        Operation("GET", "/api/llm/v1/models", {}, {"a": "b"}),
        Operation("GET", "/api/sandbox/secrets/{name}", {"name": own["name"]}, {}),
    ]


WITH_WORKSPACE = re.compile(
    r"/(files|git|archive|list-files|select-file|upload-files|zip-directory|file)\b"
)
"""Operations that need an engine with files. The test of a real engine sends them."""


def engine_operations(existing, running) -> list[Operation]:
    """Return the operations of the engine's clients at paths that V0 has too."""
    key = (("X-Session-API-Key", existing.headers["full key"]["Authorization"].removeprefix("Bearer ")),)  # fmt: skip
    agent = {"kind": "Agent", "llm": {"model": "m", "usage_id": "agent"}, "tools": [{"name": "terminal", "params": {}}], "agent_context": {}, "system_prompt_kwargs": {"cli_mode": True}, "condenser": None}  # fmt: skip
    new = {"agent": agent, "workspace": {"kind": "LocalWorkspace", "working_dir": "/workspace"}, "confirmation_policy": {"kind": "ConfirmRisky", "threshold": "HIGH", "confirm_unknown": True}, "security_analyzer": {"kind": "LLMSecurityAnalyzer"}, "max_iterations": 50, "tags": {"a": "b"}, "initial_message": {"role": "user", "content": [{"type": "text", "text": "Hello"}], "run": True}, "tool_module_qualnames": {"a": "b"}, "parent_conversation_id": None}  # fmt: skip
    message = {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "image", "image_urls": ["https://x.example/a.png"]}], "run": True}  # fmt: skip
    pk = {"id": str(running.pk)}
    return [
        Operation("POST", "/api/conversations", {}, {}, new, headers=key),
        Operation("POST", "/api/conversations/{id}/events", pk, {}, message, headers=key),
        Operation("GET", "/api/conversations/{id}", pk, {}, headers=key),
        Operation("GET", "/api/conversations/{id}/events/search", pk, {"limit": "5", "kind": "x", "page_id": "x"}, headers=key),
        Operation("POST", "/api/conversations/{id}/confirmation_policy", pk, {}, {"policy": {"kind": "ConfirmRisky", "threshold": "LOW", "confirm_unknown": False}}, headers=key),
        *(Operation("POST", f"/api/conversations/{{id}}/{name}", pk, {}, {"a": "b"}, headers=key) for name in ("pause", "run", "interrupt", "secrets", "generate_title", "fork")),
        Operation("POST", "/api/conversations/{id}/events", pk, {}, {"action": "change_agent_state", "args": {"agent_state": "user_confirmed", "thought": "x"}}),
    ]  # fmt: skip


def callers(existing, conversation):
    """Return the headers of each caller of the fuzz."""
    token = issue_gateway_token(
        organization_id=existing.team.pk,
        user_id=conversation.created_by_id,
        conversation_id=conversation.pk,
    )
    return {
        "owner": existing.headers["full key"],
        "anonymous": {},
        "gateway": {"Authorization": f"Bearer {token}"},
    }


def send_odd(existing, own, conversation, values, share) -> Tally:
    tally = Tally(INTENDED)
    headers = callers(existing, conversation)
    documented = [
        operation
        for operation in operations(own)
        if not WITH_WORKSPACE.search(operation.path) or operation.path.startswith("/api/v1/egress")
    ]
    listed = [*documented, *engine_operations(existing, conversation)]
    for caller, operations_of, count in (
        ("owner", listed, values),
        ("anonymous", documented, 1 if values > 0 else 8),
    ):
        requests = (
            request._replace(surface=f"REST, {caller}")
            for number, operation in enumerate(operations_of)
            for request in operation.list_odd(number, count)
        )
        Sender(tally, headers[caller]).send_all(sample(requests, share))
    return tally


def test_a_few_odd_values_in_each_part_of_each_request(existing, own, running):
    tally = send_odd(existing, own, running, 2, 0.3)

    figure("odd values, REST", requests=tally.requests, statuses=tally.statuses, server_errors=tally.server_errors, intended=tally.intended)  # fmt: skip
    assert not tally.kinds, tally.report()
    assert not tally.unreadable, tally.report()


@pytest.mark.slow
@pytest.mark.timeout(7_200)
def test_odd_values_in_each_part_of_each_request(existing, own, running):
    tally = send_odd(existing, own, running, VALUES or 12, SHARE or 0.04)

    figure("odd values, REST", requests=tally.requests, statuses=tally.statuses, server_errors=tally.server_errors, intended=tally.intended)  # fmt: skip
    assert not tally.kinds, tally.report()
    assert not tally.unreadable, tally.report()
