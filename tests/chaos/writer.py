"""Writers that tests kill: processes that append to logs with the services of web and manager.

``python -m tests.chaos.writer`` loads Django once and forks a writer for each plan that it reads from its input, one
JSON object a line, so a restart of a writer is fast. It prints the process id of each writer. After a service has
returned, the writer records the acknowledgement in a file. At its end it creates ``<file>.done``.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

NAME = uuid5(NAMESPACE_URL, "chaos")
WINDOW = 8
"""Events of a sender are shuffled within windows of this size."""


def create_event_id(conversation: str, sender: str, number: int) -> str:
    return str(uuid5(NAME, f"{conversation} {sender} {number}"))


def shuffle_numbers(sender: str, count: int) -> list[int]:
    """Return the order in which a sender sends its events. It is the same after a restart of the writer."""
    dice, numbers = random.Random(sender), list(range(count))
    for start in range(0, count, WINDOW):
        window = numbers[start : start + WINDOW]
        dice.shuffle(window)
        numbers[start : start + WINDOW] = window
    return numbers


class Notes:
    """The file of acknowledgements, one line each. Each line is a single write, so it survives a kill of the writer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def add(self, sender: str, number: int, seq: int | None) -> None:
        os.write(self._file, f"{sender} {number} {'' if seq is None else seq}\n".encode())

    def load(self) -> dict[str, set[int]]:
        """Return the numbers that are already acknowledged, by sender."""
        numbers: dict[str, set[int]] = {}
        for line in self.path.read_text().splitlines():
            sender, number, *_ = line.split(" ")
            numbers.setdefault(sender, set()).add(int(number))
        return numbers

    def finish(self) -> None:
        self.path.with_suffix(".done").touch()


def write(plan: dict[str, Any]) -> None:
    """Execute a plan, and repeat every call that fails because the database is unreachable."""
    notes = Notes(Path(plan["notes"]))
    (_post if plan["kind"] == "messages" else _ingest)(plan, notes, random.Random())
    notes.finish()


def retry_database_errors(function: Callable[..., Any], **arguments: Any) -> Any:
    from django.db import DatabaseError, InterfaceError, connections
    from psycopg_pool import PoolTimeout

    while True:
        try:
            return function(**arguments)
        except (DatabaseError, InterfaceError, PoolTimeout):
            connections.close_all()
            time.sleep(0.2)


def _post(plan: dict[str, Any], notes: Notes, dice: random.Random) -> None:
    """Post messages of several senders in turn, as web does. Some messages are posted twice."""
    from conversations import services

    conversation, known = plan["conversation"], notes.load()

    def post(sender: str, number: int) -> None:
        if plan.get("acks_first"):  # a control: the server must never do this
            notes.add(sender, number, None)
            if number == plan["dies_at"]:
                os.kill(os.getpid(), signal.SIGKILL)
        event = retry_database_errors(
            services.post_message,
            conversation_id=UUID(conversation),
            text=f"{sender} {number}",
            message_id=create_event_id(conversation, sender, number),
        )
        notes.add(sender, number, event.seq)
        if plan.get("pushes"):  # another control
            _push(event.seq)

    orders = {sender: shuffle_numbers(sender, plan["count"]) for sender in plan["senders"]}
    for turn in range(plan["count"]):
        for sender, order in orders.items():
            is_known = order[turn] in known.get(sender, ())
            # The control must not post the event again that it lost.
            repeats = not plan.get("acks_first")
            if not is_known or (repeats and dice.random() < 0.03):
                post(sender, order[turn])
            if repeats and turn and dice.random() < 0.1:
                post(sender, order[dice.randrange(turn)])


def _ingest(plan: dict[str, Any], notes: Notes, dice: random.Random) -> None:
    """Store frames as a manager does, in overlapping or incomplete batches. Writers take the lease from each other."""
    from conversations import services
    from conversations.engine.payloads import Durable, parse_event
    from conversations.models import Conversation

    key, [sender] = UUID(plan["conversation"]), plan["senders"]

    def frame(number: int) -> Durable:
        body = {
            "id": create_event_id(str(key), sender, number),
            "kind": "Step",
            "source": "agent",
            "number": number,
        }
        return Durable(number, parse_event(json.dumps(body).encode(), seq=number))

    generation = None
    while (stored := retry_database_errors(Conversation.objects.get, pk=key).engine_seq) < plan[
        "count"
    ] - 1:
        if generation is None:
            generation = retry_database_errors(_take_over, key=key)
        first = max(0, stored + 1 - dice.randrange(4))
        numbers = list(range(first, min(plan["count"], first + dice.randint(1, 9))))
        if dice.random() < 0.1:
            dice.shuffle(numbers)
        if dice.random() < 0.1:
            numbers = numbers[1:]
        try:
            retry_database_errors(
                services.ingest_events,
                conversation_id=key,
                generation=generation,
                frames=[frame(number) for number in numbers],
            )
        except services.StaleLease:
            generation = None
            time.sleep(dice.uniform(0.2, 0.6))
        except services.LogGap:
            pass
        else:
            for number in numbers:
                notes.add(sender, number, None)
            time.sleep(0.01)


def _take_over(*, key: UUID) -> int:
    from django.db import transaction

    from conversations.models import Lease

    with transaction.atomic():
        lease = Lease.objects.select_for_update().get(conversation_id=key)
        lease.generation += 1
        lease.owner = f"writer:{os.getpid()}"
        lease.save()
    return lease.generation


def _push(seq: int) -> None:
    import redis
    from django.conf import settings

    try:
        with redis.Redis.from_url(settings.REDIS_URL) as client:
            client.publish("pushed", str(seq))
    except redis.RedisError:
        pass


def main() -> None:
    import django

    django.setup()
    from conversations import services  # noqa: F401 - loaded once for all

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            try:
                write(json.loads(line))
            except BaseException:  # noqa: BLE001 - print any error to the log before the process ends
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
