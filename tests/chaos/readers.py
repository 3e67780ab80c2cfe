"""Clients that follow a conversation by WebSocket, stream or long poll, and record how late each event arrives.

The events of ``tests.fakes.engine_sockets`` contain the time at which they happened, by the clock of this machine.
"""

import contextlib
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx2
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.fakes.stack import Person

NUDGED_SECONDS = 1.0
"""An event that arrives sooner was announced by a nudge, because polls are further apart."""
IN_A_ROW = 10
"""Number of successive events after which nudges count as working again."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An event that a client received, with its delay in seconds."""

    seq: int
    happened_at: float
    late_seconds: float


@dataclass
class Reader(threading.Thread):
    """A client that reconnects behind its last event until ``done`` is set."""

    person: Person
    url: str
    conversation: UUID
    seen: list[Seen] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    resets: int = 0

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self.done = threading.Event()
        self.began = time.time()
        self.joined_at: float | None = None

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        while not self.done.is_set():
            try:
                self.follow(self.seen[-1].seq if self.seen else 0)
            except ConnectionClosed as error:
                self.ends[str(error.rcvd.code if error.rcvd else 1006)] += 1
            except InvalidStatus as error:
                self.ends[str(error.response.status_code)] += 1
            except (OSError, TimeoutError, httpx2.HTTPError) as error:
                self.ends[type(error).__name__] += 1
            self.done.wait(0.1)

    def follow(self, after: int) -> None:
        """Receive the events behind ``after`` over one connection."""
        raise NotImplementedError

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.person.key}"}

    @property
    def address(self) -> str:
        return f"{self.url}/api/v1/conversations/{self.conversation}/events"

    @property
    def kind(self) -> str:
        return type(self).__name__.lower()

    @property
    def seqs(self) -> list[int]:
        return [event.seq for event in self.seen]

    def record(self, event: dict[str, Any]) -> None:
        happened_at = event["payload"].get("happened_at")
        now = time.time()
        self.joined_at = self.joined_at or now
        self.seen.append(
            Seen(event["seq"], happened_at or 0, now - happened_at if happened_at else 0)
        )

    def lateness(self, since: float, until: float) -> list[float]:
        """Return the delays of the events that happened between two times while this client was connected."""
        begin = max(since, (self.joined_at or time.time()) + 0.5)
        return [seen.late_seconds for seen in list(self.seen) if begin <= seen.happened_at < until]

    def nudged_after(self, instant: float) -> float | None:
        """Return the seconds from an instant until ``IN_A_ROW`` events arrived without delay, or None if never."""
        row: list[Seen] = []
        for seen in [seen for seen in list(self.seen) if seen.happened_at >= instant]:
            row = [*row, seen] if seen.late_seconds < NUDGED_SECONDS else []
            if len(row) == IN_A_ROW:
                return row[0].happened_at - instant
        return None


class Socket(Reader):
    """A client that follows by WebSocket."""

    def follow(self, after: int) -> None:
        with connect(
            f"{self.url.replace('http', 'ws', 1)}/ws/v1/conversations/{self.conversation}?after={after}",
            additional_headers=self.headers,
            open_timeout=30,
            close_timeout=1,
            proxy=None,
        ) as socket:
            while not self.done.is_set():
                with contextlib.suppress(TimeoutError):
                    frame = json.loads(socket.recv(timeout=0.2))
                    self.resets += frame["type"] == "reset"
                    if frame["type"] == "event":
                        self.record(frame["event"])


class Stream(Reader):
    """A client that follows by server-sent events."""

    def follow(self, after: int) -> None:
        with (
            httpx2.Client(trust_env=False, timeout=30) as client,
            client.stream(
                "GET",
                f"{self.address}/stream",
                params={"after": after},
                headers=self.headers | {"Accept": "text/event-stream"},
            ) as response,
        ):
            if response.status_code != 200:
                self.ends[str(response.status_code)] += 1
                return
            for line in response.iter_lines():
                if line.startswith("data: "):
                    frame = json.loads(line.removeprefix("data: "))
                    self.resets += frame["type"] == "reset"
                    if frame["type"] == "event":
                        self.record(frame["event"])
                if self.done.is_set():
                    return


class LongPoll(Reader):
    """A client that requests pages which wait for their first event."""

    def follow(self, after: int) -> None:
        with httpx2.Client(trust_env=False, timeout=30) as client:
            while not self.done.is_set():
                query = {"after": self.seen[-1].seq if self.seen else after, "wait": 5}
                response = client.get(self.address, params=query, headers=self.headers)
                if response.status_code != 200:
                    self.ends[str(response.status_code)] += 1
                    return
                for event in response.json()["items"]:
                    self.record(event)
