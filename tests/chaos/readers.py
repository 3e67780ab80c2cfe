"""Clients that follow one conversation in each way there is, and note how late every event reached them.

The events of ``tests.fakes.engine_sockets`` say when they happened, by the clock of this machine.
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
"""What comes sooner was announced: polls are further apart."""
IN_A_ROW = 10


@dataclass(frozen=True, slots=True)
class Seen:
    """One event as a client got it."""

    seq: int
    happened_at: float
    late_seconds: float


@dataclass
class Reader(threading.Thread):
    """A client over all its connections; it resumes behind what it has."""

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
            except ConnectionClosed as closed:
                self.ends[str(closed.rcvd.code if closed.rcvd else 1006)] += 1
            except InvalidStatus as refused:
                self.ends[str(refused.response.status_code)] += 1
            except (OSError, TimeoutError, httpx2.HTTPError) as error:
                self.ends[type(error).__name__] += 1
            self.done.wait(0.1)

    def follow(self, after: int) -> None:
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
        return [one.seq for one in self.seen]

    def take(self, event: dict[str, Any]) -> None:
        happened_at = event["payload"].get("happened_at")
        now = time.time()
        self.joined_at = self.joined_at or now
        self.seen.append(
            Seen(event["seq"], happened_at or 0, now - happened_at if happened_at else 0)
        )

    def lateness(self, since: float, until: float) -> list[float]:
        """How late the events of a span were: those that happened while this client was there, in order."""
        begin = max(since, (self.joined_at or time.time()) + 0.5)
        return [one.late_seconds for one in list(self.seen) if begin <= one.happened_at < until]

    def nudged_after(self, instant: float) -> float | None:
        """Seconds from an instant until this client was told at once again, several times in a row."""
        row: list[Seen] = []
        for one in [one for one in list(self.seen) if one.happened_at >= instant]:
            row = [*row, one] if one.late_seconds < NUDGED_SECONDS else []
            if len(row) == IN_A_ROW:
                return row[0].happened_at - instant
        return None


class Socket(Reader):
    """A WebSocket."""

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
                        self.take(frame["event"])


class Stream(Reader):
    """Server-sent events."""

    def follow(self, after: int) -> None:
        with (
            httpx2.Client(trust_env=False, timeout=30) as client,
            client.stream(
                "GET",
                f"{self.address}/stream",
                params={"after": after},
                headers=self.headers | {"Accept": "text/event-stream"},
            ) as answer,
        ):
            if answer.status_code != 200:
                self.ends[str(answer.status_code)] += 1
                return
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    frame = json.loads(line.removeprefix("data: "))
                    self.resets += frame["type"] == "reset"
                    if frame["type"] == "event":
                        self.take(frame["event"])
                if self.done.is_set():
                    return


class LongPoll(Reader):
    """Pages that wait for their first event."""

    def follow(self, after: int) -> None:
        with httpx2.Client(trust_env=False, timeout=30) as client:
            while not self.done.is_set():
                query = {"after": self.seen[-1].seq if self.seen else after, "wait": 5}
                answer = client.get(self.address, params=query, headers=self.headers)
                if answer.status_code != 200:
                    self.ends[str(answer.status_code)] += 1
                    return
                for event in answer.json()["items"]:
                    self.take(event)
