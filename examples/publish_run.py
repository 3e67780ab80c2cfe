"""Publish the events of an agent that runs elsewhere: JSON lines on standard input become a conversation.

    my-agent --json | python examples/publish_run.py --server localhost:50051 --title "Nightly repair"

Each line is one event in the format of the agent engine: ``{"id", "kind", "source", "timestamp", ...}``. The API key
is read from the environment variable ``OH_API_KEY`` and needs the scope ``events.publish``. The server acknowledges an
event when it has stored the event. After a lost connection, the script sends all unacknowledged events again, and the
server stores an event only once. The script prints the id of the conversation.

The gRPC stubs are generated from ``conversations/grpc/protos/openhands/v1/events.proto``. To use this script outside
the repository, generate stubs from that file.
"""

import argparse
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from uuid import uuid4

import grpc

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from conversations.grpc.v1 import events_pb2 as wire
from conversations.grpc.v1.events_pb2_grpc import EventServiceStub

HOUR = 3_600
MAX_UNREAD = 1_000
"""The maximum number of lines that are read before they are sent."""
RETRY_SECONDS = 60
"""Seconds after which the script gives up if no attempt to connect succeeds."""


class Publisher:
    """A publisher that sends batches and repeats unacknowledged batches on the next connection."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.number = 0
        self.unread: deque[bytes] = deque()
        self.unacknowledged: deque[wire.Batch] = deque()
        self.is_read = False
        self.changed = threading.Condition()

    def read(self, lines: Iterable[bytes]) -> None:
        """Read the input, at most ``MAX_UNREAD`` lines ahead. Call it in a separate thread, because it blocks."""
        for line in lines:
            with self.changed:
                self.changed.wait_for(lambda: len(self.unread) < MAX_UNREAD)
                self.unread.append(line)
                self.changed.notify_all()
        with self.changed:
            self.is_read = True
            self.changed.notify_all()

    def run(self) -> None:
        """Publish until all input is acknowledged. Raise ``SystemExit`` after ``RETRY_SECONDS`` of failures."""
        failing_since = None
        while not self.is_read or self.unread or self.unacknowledged:
            before = self.number
            try:
                self.connect()
                failing_since = None
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    raise SystemExit(f"{error.code().name}: {error.details()}") from error
                if failing_since is None or self.number > before:
                    failing_since = time.monotonic()
                if time.monotonic() - failing_since > RETRY_SECONDS:
                    raise SystemExit(f"The server cannot be reached: {error.details()}") from error
                time.sleep(0.5)

    def connect(self) -> None:
        over = threading.Event()
        metadata = [("authorization", f"Bearer {os.environ['OH_API_KEY']}")]
        with self.channel() as channel:
            try:
                responses = EventServiceStub(channel).Append(
                    self.messages(over), metadata=metadata, timeout=HOUR
                )
                for response in responses:
                    if response.WhichOneof("message") == "appended":
                        self.acknowledge(response.appended.number)
            finally:
                # gRPC's sending thread must not take another line, because the connection has ended.
                with self.changed:
                    over.set()
                    self.changed.notify_all()

    def acknowledge(self, number: int) -> None:
        """Drop the batches up to ``number``, which the server has stored."""
        with self.changed:
            while self.unacknowledged and self.unacknowledged[0].number <= number:
                self.unacknowledged.popleft()

    def messages(self, over: threading.Event) -> Iterator[wire.AppendRequest]:
        arguments = self.arguments
        opening = wire.OpenRun(
            conversation_id=arguments.id, title=arguments.title, model=arguments.model
        )
        yield wire.AppendRequest(open=opening)
        with self.changed:
            repeated = list(self.unacknowledged)
        for batch in repeated:
            yield wire.AppendRequest(batch=batch)
        while batch := self.next_batch(over):
            yield wire.AppendRequest(batch=batch)

    def next_batch(self, over: threading.Event) -> wire.Batch | None:
        """Return a batch with the next line, or None at the end. Keep the batch until it is acknowledged.

        ``over`` is set when the connection has ended.
        """
        with self.changed:
            self.changed.wait_for(lambda: self.unread or self.is_read or over.is_set())
            if over.is_set() or not self.unread:
                return None
            self.number += 1
            events = [wire.PublishedEvent(json=self.unread.popleft())]
            batch = wire.Batch(number=self.number, events=events)
            self.unacknowledged.append(batch)
            self.changed.notify_all()
            return batch

    def channel(self) -> grpc.Channel:
        server = self.arguments.server
        if self.arguments.tls:
            return grpc.secure_channel(server, grpc.ssl_channel_credentials())
        return grpc.insecure_channel(server)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--server", required=True, help="host:port of the server's gRPC role")
    parser.add_argument(
        "--id",
        default=str(uuid4()),
        help="UUID of the conversation; to resume, use the same UUID (default: a new UUID)",
    )
    parser.add_argument("--title", default="", help="title of the conversation")
    parser.add_argument("--model", default="", help="name of the agent's model")
    parser.add_argument("--tls", action="store_true", help="connect with TLS")
    arguments = parser.parse_args()
    print(arguments.id, flush=True)
    publisher = Publisher(arguments)
    lines = (line for line in sys.stdin.buffer if line.strip())
    threading.Thread(target=publisher.read, args=(lines,), daemon=True).start()
    try:
        publisher.run()
    except SystemExit as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(1)  # a normal exit would wait for the thread that reads the input


if __name__ == "__main__":
    main()
