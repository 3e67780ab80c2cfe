"""Wake-ups (nudges): messages between processes over the channel layer, sent from any thread without waiting.

A wake-up makes the processes of a group of the channel layer read something again. A wake-up may be lost, so receivers
also poll. Therefore sending never blocks a request or causes it to fail, and if several wake-ups of one type wait for
one group, only the last is sent. Processes ignore types that they do not know, because another process may run a newer
version.
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
"""The maximum number of wake-ups that wait to be sent."""
SEND_SECONDS = 2.0
"""The time limit for sending one wake-up."""
MANAGERS = "managers"
"""The group of all conversation managers."""


class LogAdvanced(msgspec.Struct, frozen=True, tag="log.advanced"):
    """A conversation's log or record has changed. Receivers read it again."""

    conversation: UUID


class DeltaArrived(msgspec.Struct, frozen=True, tag="delta.arrived"):
    """An agent has written more of a message. ``deltas`` are not stored: a later event contains the whole message."""

    conversation: UUID
    deltas: list[dict[str, Any]]


class AccessChanged(msgspec.Struct, frozen=True, tag="access.changed"):
    """A session, key or role of a user may have changed. Sockets check the user's access again."""

    user: UUID


class ManagerWake(msgspec.Struct, frozen=True, tag="manager.wake"):
    """A conversation became active, or its manager released the lease. Managers can now claim it."""


Wakeup: TypeAlias = LogAdvanced | DeltaArrived | AccessChanged | ManagerWake


def encode(wakeup: Wakeup) -> dict[str, Any]:
    """Return a wake-up as a message for the channel layer: a dictionary with ``type``."""
    message: dict[str, Any] = msgspec.to_builtins(wakeup)
    return message


def decode(message: Any) -> Wakeup | None:
    """Return the wake-up in a message, or None if this version does not know the message's type. Never raises."""
    try:
        wakeup: Wakeup = msgspec.convert(message, Wakeup)
        return wakeup
    except (msgspec.MsgspecError, ValueError, TypeError):
        return None


async def send(group: str, wakeup: Wakeup, *, seconds: float) -> None:
    """Send one wake-up from the running event loop. Drop it if Redis fails or takes longer than ``seconds``."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(seconds):
            await get_channel_layer().group_send(group, encode(wakeup))


class Publisher:
    """A daemon thread with its own event loop that sends the wake-ups passed to ``nudge``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._nudges: dict[tuple[str, type], Wakeup] = {}
        self._is_sending = False
        self._lost_in_a_row = 0

    def nudge(self, group: str, wakeup: Wakeup) -> None:
        """Queue a wake-up for ``group``. It replaces a waiting wake-up of the same type for the same group.

        Drop the wake-up if ``MAX_WAITING`` wake-ups are waiting.
        """
        with self._lock:
            if len(self._nudges) < MAX_WAITING:
                self._nudges[group, type(wakeup)] = wakeup
            loop = self._running_loop()
        loop.call_soon_threadsafe(self._start_sending)

    def flush(self, seconds: float) -> None:
        """Wait until all queued wake-ups are sent, at most ``seconds``. Call it before the process ends."""
        deadline = time.monotonic() + seconds
        while (self._nudges or self._is_sending) and time.monotonic() < deadline:
            time.sleep(0.01)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        # The caller holds the lock, so only one thread is started.
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            thread = threading.Thread(target=self._loop.run_forever, name="bus", daemon=True)
            thread.start()
        return self._loop

    def _start_sending(self) -> None:
        # This method and ``_send_all`` run only on the publisher's own loop, so ``_is_sending`` needs no lock.
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
        except Exception as error:  # noqa: BLE001 - receivers poll, so any failure is harmless
            self._lost_in_a_row += 1
            # One line per power of 100, so that an outage of Redis does not flood the log.
            if self._lost_in_a_row in (1, 100, 10_000):
                log.warning(
                    "wake-ups are lost (%s); clients get new events by polling",
                    type(error).__name__,
                )
        else:
            self._lost_in_a_row = 0


publisher = Publisher()
"""The publisher of this process."""
