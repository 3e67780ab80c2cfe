"""A gateway token, an upstream model server, and this server listening on a port."""

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
from tests.waiting import wait_until_async

UPSTREAM_KEY = "sk-upstream-0123456789"
CHAT = "/api/llm/v1/chat/completions"


@pytest.fixture(autouse=True)
def no_pauses(settings: Settings) -> None:
    """The demo model does not pause between words."""
    settings.DEMO_PIECE_MILLISECONDS = 0


@pytest.fixture
def conversation_id() -> UUID:
    return uuid4()


@pytest.fixture
def token(alice: User, conversation_id: UUID) -> str:
    """A gateway token of one of Alice's conversations."""
    return issue_token(alice, conversation_id)


def issue_token(user: User, conversation_id: UUID) -> str:
    return services.issue_gateway_token(
        organization_id=user.personal_organization.pk,
        user_id=user.pk,
        conversation_id=conversation_id,
    )


@pytest.fixture
def provider() -> Iterator[ScriptedLLM]:
    """An upstream model server that requires a key."""
    with ScriptedLLM(api_key=UPSTREAM_KEY) as server:
        yield server


@pytest.fixture
def access(alice: User, provider: ScriptedLLM) -> ModelAccess:
    """Alice's access to the upstream: 1 dollar per million prompt tokens, 2 for completion tokens."""
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
    """A client of this server, which listens on a port in the event loop of the test."""
    config = uvicorn.Config(ASGIHandler(), port=0, lifespan="off", log_config=None, ws="none")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await wait_until_async(lambda: server.started, "the server to start", pause=0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        yield client
    server.should_exit = True
    await serving
    await sync_to_async(connections.close_all)()  # The thread of the async ORM keeps one open.


def bearer(token: str) -> dict[str, str]:
    """Return the header that authenticates with a token."""
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
    """Return a chat-completions request with an agent's tools; ``texts`` are the user's messages."""
    messages = [{"role": "system", "content": "You are an agent."}]
    messages += [{"role": "user", "content": [{"type": "text", "text": text}]} for text in texts]
    return {"model": "openai/some-model", "messages": messages, "tools": TOOLS} | fields


def parse_stream(raw: bytes) -> list[dict[str, Any]]:
    """Return the chunks of a complete server-sent stream."""
    events = [line[6:] for line in raw.split(b"\n\n") if line.startswith(b"data: ")]
    assert events[-1] == b"[DONE]"
    return [json.loads(event) for event in events[:-1]]


async def wait_for_calls(conversation_id: UUID, *, count: int = 1) -> list[ModelCall]:
    """Wait until ``count`` calls of a conversation are recorded, and return all of them in order."""
    rows = ModelCall.objects.filter(conversation_id=conversation_id).order_by("created_at")

    async def has_all() -> bool:
        return await rows.acount() >= count

    await wait_until_async(has_all, f"{count} calls to be recorded", seconds=10)
    return [call async for call in rows.all()]
