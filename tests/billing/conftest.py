"""A gateway token, a provider upstream, and this server listening for real."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
import uvicorn
from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.db import connections
from pytest_django.fixtures import Settings

from accounts.models import User
from billing import services
from billing.models import ModelAccess, ModelCall
from tests.fakes.scripted_llm import ScriptedLLM

UPSTREAM_KEY = "sk-upstream-0123456789"
CHAT = "/api/llm/v1/chat/completions"


@pytest.fixture(autouse=True)
def at_once(settings: Settings) -> None:
    """The demo model does not pause between words."""
    settings.DEMO_PIECE_MILLISECONDS = 0


@pytest.fixture
def conversation_id() -> UUID:
    return uuid4()


@pytest.fixture
def token(alice: User, conversation_id: UUID) -> str:
    """A gateway token of a conversation of Alice's."""
    return issue(alice, conversation_id)


def issue(user: User, conversation_id: UUID) -> str:
    return services.issue_gateway_token(
        organization_id=user.personal_organization.pk,
        user_id=user.pk,
        conversation_id=conversation_id,
    )


@pytest.fixture
def provider() -> Iterator[ScriptedLLM]:
    """Somebody's model server, which wants a key."""
    with ScriptedLLM(api_key=UPSTREAM_KEY) as server:
        yield server


@pytest.fixture
def access(alice: User, provider: ScriptedLLM) -> ModelAccess:
    """Alice's conversations use that server: 1 dollar a million prompt tokens, 2 for completions."""
    return services.save_model_access(
        organization=alice.personal_organization,
        user=alice,
        base_url=provider.base_url,
        model="scripted-large",
        api_key=UPSTREAM_KEY,
        prompt_micros_per_million=1_000_000,
        completion_micros_per_million=2_000_000,
        cached_micros_per_million=500_000,
    )


@pytest.fixture
async def live() -> AsyncIterator[httpx2.AsyncClient]:
    """A client of this server, which listens on a port in the test's own loop."""
    config = uvicorn.Config(ASGIHandler(), port=0, lifespan="off", log_config=None, ws="none")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        yield client
    server.should_exit = True
    await serving
    await sync_to_async(connections.close_all)()  # the async ORM's thread keeps one otherwise


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"security_risk": {}, "summary": {}}},
        },
    }
    for name in ("terminal", "file_editor", "task_tracker", "finish", "think")
]


def chat(*texts: str, **fields: Any) -> dict[str, Any]:
    """A chat-completions request with the tools of an agent; texts are the user's messages."""
    messages = [{"role": "system", "content": "You are an agent."}]
    messages += [{"role": "user", "content": [{"type": "text", "text": text}]} for text in texts]
    return {"model": "openai/whatever", "messages": messages, "tools": TOOLS} | fields


def chunks_of(raw: bytes) -> list[dict[str, Any]]:
    """The chunks of a server-sent stream that ended as it should."""
    events = [line[6:] for line in raw.split(b"\n\n") if line.startswith(b"data: ")]
    assert events[-1] == b"[DONE]"
    return [json.loads(event) for event in events[:-1]]


async def calls_of(conversation_id: UUID, *, count: int = 1) -> list[ModelCall]:
    """The recorded calls of a conversation, once there are so many; waits for those still on their way."""
    calls = ModelCall.objects.filter(conversation_id=conversation_id).order_by("created_at")
    for _ in range(200):
        found = [call async for call in calls.all()]
        if len(found) >= count:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"{count} calls were not recorded")
