"""The session sockets of many engines at once, for benches and for tests that kill managers.

``python -m tests.fakes.engine_sockets '{"interval": 1.0, "events": 50}'`` prints its port and serves until the
process ends. A conversation's log depends only on the clock: one event every ``interval`` seconds from the
conversation's own start, at most ``events``. A client that reconnects therefore gets the same log.
"""

import asyncio
import contextlib
import json
import sys
import time
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

TEXT = "x" * 600


class Engines:
    """The engines of all conversations. A conversation exists as soon as a client asks for it."""

    def __init__(self, *, interval: float, events: int | None, began: float) -> None:
        self.interval = interval
        self.events = events
        self.began = began

    def first_at(self, key: UUID) -> float:
        """Return the time of a conversation's first event. The conversations are spread over the interval."""
        return self.began + (key.int % 997) / 997 * self.interval

    def length(self, key: UUID) -> int:
        passed = time.time() - self.first_at(key)
        count = int(passed / self.interval) + 1 if passed >= 0 else 0
        return count if self.events is None else min(count, self.events)

    def frame(self, key: UUID, seq: int) -> str:
        event = {
            "id": f"{key.hex[-12:]}-{seq}",
            "kind": "ObservationEvent",
            "source": "environment",
            "happened_at": self.first_at(key) + seq * self.interval,
            "text": TEXT,
        }
        return json.dumps({"type": "durable", "seq": seq, "event": event})

    async def session(self, socket: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self._replay(socket)

    async def _replay(self, socket: ServerConnection) -> None:
        """Send the events after ``after_seq``, then each new event at its time."""
        assert socket.request
        address = urlsplit(socket.request.path)
        key = UUID(address.path.rpartition("/")[2])
        seq = int(parse_qs(address.query)["after_seq"][0]) + 1
        await socket.recv()  # the credentials
        there = self.length(key)
        span = {"from_seq": seq, "through_seq": there - 1} if there > seq else {}
        await socket.send(json.dumps({"type": "sync", **span}))
        while self.events is None or seq < self.events:
            while seq < self.length(key):
                await socket.send(self.frame(key, seq))
                seq += 1
            await asyncio.sleep(self.first_at(key) + seq * self.interval - time.time())
        await socket.wait_closed()

    def answer(self, socket: ServerConnection, request: Request) -> Response | None:
        """Respond to the one REST request of a manager: the status of a conversation."""
        if request.path.startswith("/sockets/"):
            return None
        body = json.dumps({"execution_status": "running"}).encode()
        headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body))})
        headers["Connection"] = "close"
        return Response(HTTPStatus.OK, "OK", headers, body)


async def main(options: dict[str, Any]) -> None:
    engines = Engines(
        interval=options.get("interval", 1.0),
        events=options.get("events"),
        began=options.get("began") or time.time() + 1,
    )
    async with serve(
        engines.session,
        "127.0.0.1",
        options.get("port", 0),
        process_request=engines.answer,
        ping_interval=None,
        compression=None,
        backlog=2_000,
    ) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}))
