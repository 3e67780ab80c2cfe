"""Many engines at once, by their session sockets: for measuring and for killing managers.

``python -m tests.fakes.engine_sockets '{"interval": 1.0, "events": 50}'`` prints its port and serves until it is
ended. What a conversation's log holds follows from the clock alone (one event each ``interval`` seconds, each
conversation at its own moment, ``events`` of them at most), so whoever connects again finds it as it was.
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
    """All conversations that anybody asks for."""

    def __init__(self, *, interval: float, events: int | None, began: float) -> None:
        self.interval = interval
        self.events = events
        self.began = began

    def first_at(self, key: UUID) -> float:
        """When a conversation's first event happens: they are spread over the interval."""
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
        """What is behind ``after_seq``, then what happens."""
        assert socket.request
        address = urlsplit(socket.request.path)
        key = UUID(address.path.rpartition("/")[2])
        seq = int(parse_qs(address.query)["after_seq"][0]) + 1
        await socket.recv()  # who it is
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
        """REST, as far as a manager asks: how the conversation stands."""
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
