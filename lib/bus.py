"""Wake-ups between processes over the channel layer, sent from any thread without waiting for Redis.

A wake-up may be lost: whoever receives them also polls. So sending never blocks a request, never fails it,
and several wake-ups of the same kind for the same group are sent as one. What a process does not know (a newer
version runs beside it) it ignores.
"""

import asyncio
import contextlib
import logging
import threading
import time
from typing import Any, TypeAlias
from uuid import UUID

import msgspec
from channels.layers import get_channel_layer

log = logging.getLogger(__name__)
MAX_WAITING = 10_000
SEND_SECONDS = 2.0
MANAGERS = "managers"
"""The group of all conversation managers."""


class LogAdvanced(msgspec.Struct, frozen=True, tag="log.advanced"):
    """A conversation's log or record moved: read it."""

    conversation: UUID


class DeltaArrived(msgspec.Struct, frozen=True, tag="delta.arrived"):
    """What an agent is saying right now; never stored, and superseded by an event."""

    conversation: UUID
    deltas: list[dict[str, Any]]


class AccessChanged(msgspec.Struct, frozen=True, tag="access.changed"):
    """What a user may do could have changed: a session, key or role. Sockets ask again."""

    user: UUID


class ManagerWake(msgspec.Struct, frozen=True, tag="manager.wake"):
    """A conversation is there to be claimed: one became live, or was handed back."""


Wakeup: TypeAlias = LogAdvanced | DeltaArrived | AccessChanged | ManagerWake


def encode(wakeup: Wakeup) -> dict[str, Any]:
    """A wake-up as the channel layer carries it: a dictionary with its ``type``."""
    message: dict[str, Any] = msgspec.to_builtins(wakeup)
    return message


def decode(message: Any) -> Wakeup | None:
    """The wake-up that a message is, or None for one that this version does not know. Never raises."""
    try:
        found: Wakeup = msgspec.convert(message, Wakeup)
        return found
    except (msgspec.MsgspecError, ValueError, TypeError):
        return None


async def send(group: str, wakeup: Wakeup, *, seconds: float) -> None:
    """Send one wake-up from the running loop; drop it when Redis takes longer than ``seconds`` or refuses."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(seconds):
            await get_channel_layer().group_send(group, encode(wakeup))


class Publisher:
    """A daemon thread with an event loop of its own that sends the wake-ups handed to ``nudge``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._nudges: dict[tuple[str, type], Wakeup] = {}
        self._is_sending = False
        self._lost_in_a_row = 0

    def nudge(self, group: str, wakeup: Wakeup) -> None:
        """Send a wake-up to ``group`` soon; a waiting one of the same type is replaced."""
        with self._lock:
            if len(self._nudges) < MAX_WAITING:
                self._nudges[group, type(wakeup)] = wakeup
            loop = self._running_loop()
        loop.call_soon_threadsafe(self._start_sending)

    def flush(self, seconds: float) -> None:
        """Wait until what was handed over is sent, for so long at most: before the process ends."""
        deadline = time.monotonic() + seconds
        while (self._nudges or self._is_sending) and time.monotonic() < deadline:
            time.sleep(0.01)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            thread = threading.Thread(target=self._loop.run_forever, name="bus", daemon=True)
            thread.start()
        return self._loop

    def _start_sending(self) -> None:
        if not self._is_sending and self._loop is not None:
            self._is_sending = True
            self._task = self._loop.create_task(self._send_all())

    async def _send_all(self) -> None:
        layer = get_channel_layer()
        try:
            while True:
                with self._lock:
                    waiting, self._nudges = self._nudges, {}
                if not waiting:
                    return
                for (group, _), wakeup in waiting.items():
                    await self._send(layer, group, encode(wakeup))
        finally:
            self._is_sending = False

    async def _send(self, layer: Any, group: str, message: dict[str, Any]) -> None:
        try:
            await asyncio.wait_for(layer.group_send(group, message), SEND_SECONDS)
        except Exception as error:  # noqa: BLE001 - Redis away, in whatever way: the poll repairs it
            self._lost_in_a_row += 1
            if self._lost_in_a_row in (1, 100, 10_000):
                log.warning("wake-ups are being lost: %s", type(error).__name__)
        else:
            self._lost_in_a_row = 0


publisher = Publisher()
"""The one of this process."""
