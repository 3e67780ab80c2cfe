"""A server with several managers, and conversations whose engines are simulated."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import psutil
import redis

from conversations.sandboxes.process import MODULE
from lib import nodes
from tests.fakes.stack import Stack
from tests.prepare import ROOT
from tests.waiting import wait_until

TAKEOVER_SECONDS = 10
"""The documented limit from the death of a manager until other managers follow its conversations."""
SETTINGS = {"SANDBOX_PROVIDER": "process", "ALLOW_PROCESS_SANDBOX": "true"}
"""The settings of a server with simulated engines, which are plain processes. With another provider, a worker
stops them, because sandboxes that are not isolated must start again."""
INTERVAL = 0.3
"""Seconds between two events of a simulated engine."""
CREATE_LIVE_CONVERSATIONS = """\
import json, pathlib, sys, django
django.setup()
from django.db import transaction
from accounts.models import User
from conversations import services
from conversations.models import Lease, Sandbox, StartTask
user = User.objects.get(email="owner@example.com")
count, folder, handle = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
@transaction.atomic  # a worker must not see the start task
def create_live_conversation():
    sandbox = services.create_conversation(user=user).sandbox
    sandbox_folder = pathlib.Path(folder) / sandbox.pk.hex
    sandbox_folder.mkdir(parents=True)
    own_handle = handle | {"sandbox": sandbox.pk.hex, "dir": str(sandbox_folder)}
    (sandbox_folder / "run.json").write_text(json.dumps(own_handle))
    Sandbox.objects.filter(pk=sandbox.pk).update(
        provider="process", observed="running", conversation_started=True, run=1, handle=own_handle
    )
    conversation = sandbox.conversation
    StartTask.objects.filter(conversation=conversation).delete()
    Lease.objects.filter(conversation=conversation).update(is_wanted=True)
    return conversation.pk
for _ in range(count):
    print(create_live_conversation())
"""


class Cluster:
    """A server without workers whose managers are started by the test, and conversations with simulated engines."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.keys: list[UUID] = []
        self.engines: list[subprocess.Popen[str]] = []

    def create_conversations(self, count: int, *, events: int) -> list[UUID]:
        """Create live conversations whose simulated engine sends ``events`` events each; return their ids."""
        options = {"interval": INTERVAL, "events": events}
        run = uuid4().hex
        # The sandbox provider recognizes its processes by the module name and the environment variable.
        engine = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.engine_sockets", json.dumps(options), MODULE],
            cwd=ROOT,
            env=os.environ | {"OH_SANDBOX_RUN": run},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.engines.append(engine)
        assert engine.stdout
        port = int(engine.stdout.readline())
        created = psutil.Process(engine.pid).create_time()
        handle = {"run": run, "pid": engine.pid, "created": created, "port": port, "tmux": ""}
        folder = self.stack.folder / "simulated"
        output = self.stack.python(
            CREATE_LIVE_CONVERSATIONS,
            str(count),
            str(folder),
            json.dumps(handle),
        )
        keys = [UUID(line) for line in output.split()]
        self.keys += keys
        return keys

    def count_followed(self) -> Counter[str]:
        """Return how many conversations each manager follows, by the manager's name in the test."""
        rows = self.stack.sql(
            "SELECT owner, count(*) AS n FROM conversations_lease"
            " WHERE owner <> '' AND following_run IS NOT NULL GROUP BY owner"
        )
        names = {self.stack.pid(name): name for name in list(self.stack.roles)}
        return Counter(
            {names.get(int(row["owner"].split(":")[-2]), "gone"): row["n"] for row in rows}
        )

    def wait_until_followed(
        self, condition: Callable[[Counter[str]], Any], *, seconds: float = 60
    ) -> float:
        """Wait until ``condition(count_followed())`` is true; return the seconds that it took."""
        started = time.monotonic()
        while not condition(counts := self.count_followed()):
            assert time.monotonic() < started + seconds, (counts, self.stack.tail("m1"))
            time.sleep(0.05)
        return time.monotonic() - started

    def wait_for_nodes(self, count: int) -> float:
        """Wait until ``count`` nodes are announced in Redis; return the seconds that it took."""
        started = time.monotonic()
        with redis.Redis.from_url(self.stack.services.redis_url) as client:
            wait_until(
                lambda: len(list(client.scan_iter(f"{nodes.INDEX}:*"))) >= count,
                f"{count} nodes to announce themselves",
                seconds=60,
            )
        return time.monotonic() - started

    def judge(self, keys: list[UUID], *, events: int, seconds: float = 60) -> dict[str, int]:
        """Count the faults in logs after they are as long as their engines' logs, or after ``seconds``.

        ``moved`` counts the logs whose order differs from the engine's.
        """
        deadline = time.monotonic() + seconds
        while True:
            rows = self.stack.sql(
                "SELECT conversation_id AS key, array_agg(engine_seq ORDER BY seq) AS places, array_agg(event_id ORDER BY seq) AS ids"
                " FROM conversations_event WHERE engine_seq IS NOT NULL AND conversation_id = ANY(%s)"
                " GROUP BY conversation_id",
                keys,
            )
            logs_by_key = {row["key"]: row for row in rows}
            if all(
                key in logs_by_key and len(logs_by_key[key]["places"]) >= events for key in keys
            ):
                break
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        expected = list(range(events))
        logs = [logs_by_key.get(key, {"places": [], "ids": []}) for key in keys]
        gaps = self.stack.sql(
            "SELECT count(*) AS n FROM (SELECT FROM conversations_event WHERE conversation_id = ANY(%s)"
            " GROUP BY conversation_id HAVING max(seq) <> count(*)) AS broken",
            keys,
        )
        return {
            "gaps": gaps[0]["n"],
            "events": sum(len(log["places"]) for log in logs),
            "lost": sum(len(set(expected) - set(log["places"])) for log in logs),
            "doubled": sum(len(log["ids"]) - len(set(log["ids"])) for log in logs),
            "moved": sum(log["places"] != expected[: len(log["places"])] for log in logs),
        }

    def stop(self) -> None:
        for engine in self.engines:
            engine.kill()
            engine.wait(10)
            assert engine.stdout
            engine.stdout.close()
