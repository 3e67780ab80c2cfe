"""The player of the demo model: it sends the replies at a readable pace, with the failures and pauses of scripts."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from django.conf import settings
from django.core.cache import cache
from redis.exceptions import RedisError

from billing.gateway import demo, script
from billing.gateway.refusals import UpstreamRefused
from billing.gateway.script import Json, Step
from billing.gateway.upstream import Response

FAILURES_SECONDS = 3_600
"""The time for which Redis keeps the count of a scripted failure."""


@asynccontextmanager
async def open_response(body: Json, *, conversation_id: UUID) -> AsyncIterator[Response]:
    """Yield the demo model's response, like ``upstream.open_response``."""
    try:
        step = await asyncio.to_thread(demo.reply, body, site=settings.PUBLIC_URL.rstrip("/"))
        reply = script.build_completion(step, body)
    except (LookupError, TypeError, AttributeError) as error:
        raise UpstreamRefused(
            400,
            "The request body does not have the shape of a chat-completions request.",
            code="invalid_request_error",
        ) from error
    await asyncio.sleep(step.delay or 0)
    if step.failure and await _is_due(step, f"{conversation_id}:{script.fingerprint(body)}"):
        status, message = step.failure.status or 502, step.failure.message
        code = script.ERROR_CODES.get(status, "server_error")
        raise UpstreamRefused(status, message, code=code)
    if body.get("stream"):
        yield Response(_iter_stream(step, reply), "text/event-stream")
    else:
        yield Response(_iter_whole(reply), "application/json")


async def _is_due(step: Step, key: str) -> bool:
    """Return whether the scripted failure of a step happens this time. Redis counts per request and conversation."""
    times = step.failure.times if step.failure else 0
    if times is None:
        return True
    try:
        return await asyncio.to_thread(_count, f"demo-failures:{key}") <= times
    except RedisError:
        return True  # without Redis there is no count; the script asks for a failure, so fail


def _count(key: str) -> int:
    cache.add(key, 0, timeout=FAILURES_SECONDS)
    try:
        return int(cache.incr(key))
    except ValueError:  # the counter expired between the two calls
        return 1


async def _iter_whole(reply: Json) -> AsyncIterator[bytes]:
    yield json.dumps(reply).encode()


async def _iter_stream(step: Step, reply: Json) -> AsyncIterator[bytes]:
    pace = settings.DEMO_PIECE_MILLISECONDS / 1000 if step.chunk_delay is None else step.chunk_delay
    for chunk in script.iter_chunks(reply, include_usage=True):
        yield script.encode_event(chunk)
        if pace:
            await asyncio.sleep(pace)
    yield script.STREAM_END
