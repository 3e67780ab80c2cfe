"""Publishes the run of an agent that works elsewhere: JSON lines on standard input become a conversation.

    my-agent --json | python examples/publish_run.py --server localhost:50051 --title "Nightly repair"

Each line is one event as the agent engine writes it: ``{"id", "kind", "source", "timestamp", ...}``. The key is
read from ``OH_API_KEY``; it needs the scope ``events.publish``. What was acknowledged is stored; after a broken
connection the rest is sent again, and an event that arrives twice is stored once. Prints the conversation's id.

The stubs are built from ``conversations/grpc/protos/openhands/v1/events.proto``; build your own from it for use
outside this repository.
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
AHEAD = 1_000
PATIENCE_SECONDS = 60


class Publisher:
    """Sends batches, keeps those that are not acknowledged, and sends them again on the next connection."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.number = 0
        self.unread: deque[bytes] = deque()
        self.unacknowledged: deque[wire.Batch] = deque()
        self.is_read = False
        self.changed = threading.Condition()

    def read(self, lines: Iterable[bytes]) -> None:
        """Take the input in, a bounded number of lines ahead. For a thread of its own: it may wait for long."""
        for line in lines:
            with self.changed:
                self.changed.wait_for(lambda: len(self.unread) < AHEAD)
                self.unread.append(line)
                self.changed.notify_all()
        with self.changed:
            self.is_read = True
            self.changed.notify_all()

    def run(self) -> None:
        """Publish until the input ends and all of it is acknowledged; gives up after a minute of failures."""
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
                if time.monotonic() - failing_since > PATIENCE_SECONDS:
                    raise SystemExit(f"The server is away: {error.details()}") from error
                time.sleep(0.5)

    def connect(self) -> None:
        over = threading.Event()
        metadata = [("authorization", f"Bearer {os.environ['OH_API_KEY']}")]
        with self.channel() as channel:
            try:
                answers = EventServiceStub(channel).Append(
                    self.messages(over), metadata=metadata, timeout=HOUR
                )
                for answer in answers:
                    if answer.WhichOneof("message") == "appended":
                        self.forget(answer.appended.number)
            finally:
                with self.changed:  # the call's own thread must not take a line that it cannot send
                    over.set()
                    self.changed.notify_all()

    def forget(self, number: int) -> None:
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
            again = list(self.unacknowledged)
        for batch in again:
            yield wire.AppendRequest(batch=batch)
        while batch := self.next_batch(over):
            yield wire.AppendRequest(batch=batch)

    def next_batch(self, over: threading.Event) -> wire.Batch | None:
        """The next line as a batch that is kept until it is acknowledged; None when there is no more."""
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
    parser.add_argument("--server", required=True, help="host:port of the gRPC role")
    parser.add_argument(
        "--id", default=str(uuid4()), help="the run's UUID; the same one resumes it"
    )
    parser.add_argument("--title", default="")
    parser.add_argument("--model", default="")
    parser.add_argument("--tls", action="store_true")
    arguments = parser.parse_args()
    print(arguments.id, flush=True)
    publisher = Publisher(arguments)
    lines = (line for line in sys.stdin.buffer if line.strip())
    threading.Thread(target=publisher.read, args=(lines,), daemon=True).start()
    try:
        publisher.run()
    except SystemExit as refusal:
        print(refusal, file=sys.stderr, flush=True)
        os._exit(1)  # not in order: Python would wait for the thread that waits for input


if __name__ == "__main__":
    main()
