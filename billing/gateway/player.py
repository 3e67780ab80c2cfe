"""Plays the demo model's replies at a pace that one can watch, with the failures and pauses of its scripts."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from django.conf import settings
from django.core.cache import cache
from redis.exceptions import RedisError

from billing.gateway import demo, script
from billing.gateway.script import Json, Step
from billing.gateway.upstream import UpstreamRefused

FAILURES_SECONDS = 3_600


@asynccontextmanager
async def answer(body: Json, *, conversation_id: UUID) -> AsyncIterator[AsyncIterator[bytes]]:
    """Answer a request from the demo model, with the interface of ``upstream.answer``."""
    try:
        step = await asyncio.to_thread(demo.reply, body)
        reply = script.completion_body(step, body)
    except (LookupError, TypeError, AttributeError) as error:
        raise UpstreamRefused(
            400, "The request is not a chat-completions request.", code="invalid_request_error"
        ) from error
    await asyncio.sleep(step.delay or 0)
    if step.failure and await _is_due(step, f"{conversation_id}:{script.fingerprint(body)}"):
        status, message = step.failure.status or 502, step.failure.message
        code = script.ERROR_CODES.get(status, "server_error")
        raise UpstreamRefused(status, message, code=code)
    yield _stream(step, reply) if body.get("stream") else _whole(reply)


async def _is_due(step: Step, key: str) -> bool:
    """Whether the step fails this time; the times are counted per request and conversation."""
    times = step.failure.times if step.failure else 0
    if times is None:
        return True
    try:
        return await asyncio.to_thread(_count, f"demo-failures:{key}") <= times
    except RedisError:
        return True  # nobody counts while Redis is away; the script asked for a failure


def _count(key: str) -> int:
    cache.add(key, 0, timeout=FAILURES_SECONDS)
    try:
        return int(cache.incr(key))
    except ValueError:  # it expired between the two
        return 1


async def _whole(reply: Json) -> AsyncIterator[bytes]:
    yield json.dumps(reply).encode()


async def _stream(step: Step, reply: Json) -> AsyncIterator[bytes]:
    pace = settings.DEMO_PIECE_MILLISECONDS / 1000 if step.chunk_delay is None else step.chunk_delay
    for chunk in script.stream_chunks(reply, include_usage=True):
        yield script.server_sent(chunk)
        if pace:
            await asyncio.sleep(pace)
    yield script.STREAM_END
