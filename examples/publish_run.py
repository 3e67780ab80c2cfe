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
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import grpc

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from conversations.grpc.v1 import events_pb2 as wire
from conversations.grpc.v1.events_pb2_grpc import EventServiceStub

HOUR = 3_600
PATIENCE_SECONDS = 60


class Publisher:
    """Sends batches, keeps those that are not acknowledged, and sends them again on the next connection."""

    def __init__(self, arguments: argparse.Namespace, lines: Iterator[bytes]) -> None:
        self.arguments = arguments
        self.lines = lines
        self.number = 0
        self.unacknowledged: deque[wire.Batch] = deque()
        self.is_read = False

    def run(self) -> None:
        """Publish until the input ends and all of it is acknowledged; gives up after a minute of failures."""
        failing_since = None
        while not self.is_read or self.unacknowledged:
            try:
                before = self.number
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
        with self.channel() as channel:
            metadata = [("authorization", f"Bearer {os.environ['OH_API_KEY']}")]
            answers = EventServiceStub(channel).Append(
                self.messages(), metadata=metadata, timeout=HOUR
            )
            for answer in answers:
                if answer.WhichOneof("message") == "appended":
                    while (
                        self.unacknowledged
                        and self.unacknowledged[0].number <= answer.appended.number
                    ):
                        self.unacknowledged.popleft()

    def channel(self) -> grpc.Channel:
        server = self.arguments.server
        if self.arguments.tls:
            return grpc.secure_channel(server, grpc.ssl_channel_credentials())
        return grpc.insecure_channel(server)

    def messages(self) -> Iterator[wire.AppendRequest]:
        arguments = self.arguments
        opening = wire.OpenRun(
            conversation_id=arguments.id, title=arguments.title, model=arguments.model
        )
        yield wire.AppendRequest(open=opening)
        for batch in list(self.unacknowledged):
            yield wire.AppendRequest(batch=batch)
        for line in self.lines:
            self.number += 1
            batch = wire.Batch(number=self.number, events=[wire.PublishedEvent(json=line)])
            self.unacknowledged.append(batch)
            yield wire.AppendRequest(batch=batch)
        self.is_read = True


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
    Publisher(arguments, (line for line in sys.stdin.buffer if line.strip())).run()


if __name__ == "__main__":
    main()
