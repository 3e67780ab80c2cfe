"""What a web process costs before it does anything: time to the first answer, memory, and memory of idle sockets."""

import asyncio
import statistics
import time

import psutil
from websockets.asyncio.client import connect

from accounts import services as accounts
from bench import report
from bench.webs import Web, web
from conversations.models import Conversation

STARTS, SOCKETS = 3, 500


def run() -> list[dict]:
    """Seconds and megabytes, each beside the same server with one bare view."""
    user = accounts.create_user(email=f"startup-{time.time_ns()}@example.com")
    _, key = accounts.issue_api_key(user=user, name="bench")
    conversation = Conversation.objects.create(
        organization=user.personal_organization, created_by=user, title="Idle", model="demo"
    )
    own = [_start() for _ in range(STARTS)]
    bare = [_start(settings="bench.bare_settings") for _ in range(STARTS)]
    seconds, megabytes = (statistics.median(column) for column in zip(*own, strict=True))
    bare_seconds, bare_megabytes = (statistics.median(c) for c in zip(*bare, strict=True))
    with web() as found:
        before = _megabytes(found)
        grown = asyncio.run(_with_sockets(found, str(conversation.pk), key)) - before
    return [
        report.figure(
            "startup", "to the first 200", seconds, bare_seconds, unit="s", reach="<= 2.5 s"
        ),
        report.figure(
            "startup", "idle process", megabytes, bare_megabytes, unit="MB", reach="<= 120 MB"
        ),
        report.figure(
            "startup",
            "1,000 idle sockets",
            grown / SOCKETS * 1000,
            unit="MB",
            reach="<= 20 MB",
            sockets=SOCKETS,
        ),
    ]


def _start(**options: str) -> tuple[float, float]:
    with web(**options) as found:
        return found.first_seconds, _megabytes(found)


def _megabytes(found: Web) -> float:
    return psutil.Process(found.pid).memory_info().rss / 1_000_000


async def _with_sockets(found: Web, conversation: str, key: str) -> float:
    """The server's megabytes while so many sockets of one conversation are open and silent."""
    url = f"{found.url.replace('http', 'ws')}/ws/v1/conversations/{conversation}"
    headers = {"Authorization": f"Bearer {key}"}
    opened = []
    try:
        for _ in range(SOCKETS // 25):
            some = [connect(url, additional_headers=headers, proxy=None) for _ in range(25)]
            opened += await asyncio.gather(*some)
        for socket in opened:
            await socket.recv()
        await asyncio.sleep(2)
        return _megabytes(found)
    finally:
        await asyncio.gather(*(socket.close() for socket in opened))
