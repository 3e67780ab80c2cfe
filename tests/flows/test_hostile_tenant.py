"""A user whose engines never answer does not delay the messages, starts and Stop buttons of other users."""

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from uuid import UUID, uuid4

import psutil
import pytest

from conversations.sandboxes.process import MODULE
from tests.fakes.stack import Stack, Talk, figure
from tests.prepare import ROOT
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow]
HUNG = 40
"""The hung conversations of the hostile user, for each of: deliveries, starts, interruptions."""
STOPS = 40
"""The number of times that the other user presses Stop."""
CREATE = """\
import json, pathlib, sys, django
django.setup()
from django.db import transaction
from accounts.models import User
from conversations import services
from conversations.models import Lease, Sandbox, StartTask
email, count, folder, handle, is_starting = sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]), sys.argv[5] == "starting"
user = User.objects.get(email=email)
@transaction.atomic  # a worker must not see the half-made conversation
def create():
    sandbox = services.create_conversation(user=user).sandbox
    path = pathlib.Path(folder) / sandbox.pk.hex
    (path / "project").mkdir(parents=True)
    own = handle | {"sandbox": sandbox.pk.hex, "dir": str(path)}
    (path / "run.json").write_text(json.dumps(own))
    observed = "pending" if is_starting else "running"
    Sandbox.objects.filter(pk=sandbox.pk).update(
        provider="process", observed=observed, conversation_started=not is_starting, run=1, handle=own
    )
    conversation = sandbox.conversation
    if not is_starting:
        StartTask.objects.filter(conversation=conversation).delete()
        type(conversation).objects.filter(pk=conversation.pk).update(status="running")
    return conversation.pk
for _ in range(count):
    print(create())
"""


class Engine:
    """A simulated engine, and the times at which requests reached it."""

    def __init__(self, stack: Stack, mode: str) -> None:
        self._stack = stack
        run = uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.timed_engine", mode, MODULE],
            cwd=ROOT,
            env=os.environ | {"OH_SANDBOX_RUN": run},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        port = int(self.process.stdout.readline())
        created = psutil.Process(self.process.pid).create_time()
        self.handle = {
            "run": run,
            "pid": self.process.pid,
            "created": created,
            "port": port,
            "tmux": "",
        }
        self.requests: list[dict[str, object]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.requests.append(json.loads(line))

    def create(self, person: str, count: int, *, starting: bool = False) -> list[Talk]:
        """Create conversations of a person whose sandboxes are this engine."""
        output = self._stack.python(
            CREATE,
            f"{person}@example.com",
            str(count),
            str(self._stack.folder / "simulated"),
            json.dumps(self.handle),
            "starting" if starting else "running",
        )
        owner = self._stack.people[person]
        return [Talk(owner, UUID(line), {}) for line in output.split()]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        assert self.process.stdout
        self.process.stdout.close()


@pytest.fixture
def stack():
    environment = {
        "SANDBOX_PROVIDER": "process",
        "ALLOW_PROCESS_SANDBOX": "true",
        "SANDBOX_MAX_RUNNING": str(3 * HUNG),
        "WEB_THREADS": "8",
    }
    running = Stack(roles=("web", "worker"), environment=environment).start()
    try:
        yield running
    finally:
        running.stop()


def _measure(engine: Engine, talk: Talk, suffix: str, send) -> float:
    """Return the seconds from a request of the user until the call of ``suffix`` reaches the engine."""
    before = len(engine.requests)
    started = time.time()
    send()
    path = f"/api/conversations/{talk.id}/{suffix}"
    wait_until(
        lambda: any(request["path"] == path for request in engine.requests[before:]),
        f"{suffix} to reach the engine",
        seconds=30,
        pause=0.005,
    )
    [first, *_] = [r for r in engine.requests[before:] if r["path"] == path]
    return float(first["at"]) - started  # type: ignore[arg-type]


@pytest.mark.timeout(900)
def test_stops_and_messages_reach_engine_within_a_second_beside_hung_engines(stack):
    hung, answering = Engine(stack, "hung"), Engine(stack, "answering")
    try:
        [talk] = answering.create("owner", 1)
        quiet = [
            _measure(answering, talk, "interrupt", lambda: talk.post("interrupt", expect=None))
            for _ in range(10)
        ]
        busy, waiting = hung.create("stranger", HUNG), hung.create("stranger", HUNG, starting=True)
        assert len(waiting) == HUNG
        for target in busy:
            target.say("Hello")
        for target in busy:
            target.post("interrupt", expect=None)
        time.sleep(5)
        stops, messages = [], []
        for turn in range(STOPS):
            stops.append(
                _measure(answering, talk, "interrupt", lambda: talk.post("interrupt", expect=None))
            )
            if turn % 4 == 0:
                messages.append(_measure(answering, talk, "events", lambda: talk.say("Hello")))
            time.sleep(0.1)
        centiles = statistics.quantiles(stops, n=100)
        figure(
            "stop_beside_hung_engines",
            quiet_median=round(statistics.median(quiet), 3),
            stop_median=round(statistics.median(stops), 3),
            stop_p99=round(centiles[98], 3),
            stop_max=round(max(stops), 3),
            message_median=round(statistics.median(messages), 3),
            message_max=round(max(messages), 3),
            worker_mb=round(psutil.Process(stack.pid("worker")).memory_info().rss / 1e6),
            worker_threads=psutil.Process(stack.pid("worker")).num_threads(),
        )
        # The figures are the claim. The limits below only tell a blocked queue from a loaded machine.
        assert max(stops) < 5
        # A delivery also waits up to three seconds for a manager, and this stack has no manager.
        assert max(messages) < 10
    finally:
        hung.stop()
        answering.stop()
