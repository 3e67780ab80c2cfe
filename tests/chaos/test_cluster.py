"""Several managers: they share conversations, and whatever happens to one, the others go on where it was."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import httpx2
import psutil
import pytest
import redis
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from conversations.sandboxes.process import MODULE
from lib import nodes
from tests.chaos.test_kills import Caller
from tests.fakes.stack import Stack, Talk, figure
from tests.prepare import ROOT

pytestmark = pytest.mark.timeout(300)
PROMISED_SECONDS = 10
INTERVAL = 0.3
MAKE_LIVE = """\
import json, pathlib, sys, django
django.setup()
from django.db import transaction
from accounts.models import User
from conversations import services
from conversations.models import Lease, Sandbox, StartTask
user = User.objects.get(email="owner@example.com")
base_url, count, folder, handle = sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
@transaction.atomic  # a worker must not see the start that was asked for
def make_live():
    sandbox = services.create_conversation(user=user).sandbox
    place = pathlib.Path(folder) / sandbox.pk.hex
    place.mkdir(parents=True)
    made = handle | {"sandbox": sandbox.pk.hex, "dir": str(place)}
    (place / "run.json").write_text(json.dumps(made))
    Sandbox.objects.filter(pk=sandbox.pk).update(
        observed="running", conversation_started=True, run=1, base_url=base_url, handle=made
    )
    conversation = sandbox.conversation
    StartTask.objects.filter(conversation=conversation).delete()
    Lease.objects.filter(conversation=conversation).update(is_wanted=True)
    return conversation.pk
for _ in range(count):
    print(make_live())
"""


class Cluster:
    """A server without workers, conversations whose engines are made up, and managers by name."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.keys: list[UUID] = []
        self.engines: list[subprocess.Popen[str]] = []

    def converse(self, count: int, *, events: int) -> list[UUID]:
        """So many live conversations more, each with so many events to come."""
        options = {"interval": INTERVAL, "events": events}
        run = uuid4().hex
        engine = subprocess.Popen(  # the sandbox provider knows its own by these
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
        folder = self.stack.folder / "made-up"
        made = self.stack.python(
            MAKE_LIVE, f"http://127.0.0.1:{port}", str(count), str(folder), json.dumps(handle)
        )
        keys = [UUID(line) for line in made.split()]
        self.keys += keys
        return keys

    def follows(self) -> Counter[str]:
        """How many conversations each of our managers has the engine's socket open for."""
        rows = self.stack.sql(
            "SELECT owner, count(*) AS n FROM conversations_lease"
            " WHERE owner <> '' AND following_run IS NOT NULL GROUP BY owner"
        )
        names = {self.stack.pid(name): name for name in list(self.stack.roles)}
        return Counter(
            {names.get(int(row["owner"].split(":")[-2]), "gone"): row["n"] for row in rows}
        )

    def until(self, is_so: Callable[[Counter[str]], Any], *, seconds: float = 60) -> float:
        """Wait until who follows what is as asked for; the seconds it took."""
        started = time.monotonic()
        while not is_so(found := self.follows()):
            assert time.monotonic() < started + seconds, (found, self.stack.tail("m1"))
            time.sleep(0.05)
        return time.monotonic() - started

    def wait_for_nodes(self, count: int) -> float:
        """Wait until so many have announced themselves; the seconds it took."""
        started = time.monotonic()
        with redis.Redis.from_url(self.stack.services.redis_url) as client:
            while len(list(client.scan_iter(f"{nodes.INDEX}:*"))) < count:
                assert time.monotonic() < started + 60
                time.sleep(0.05)
        return time.monotonic() - started

    def judge(self, keys: list[UUID], *, events: int, seconds: float = 60) -> dict[str, int]:
        """What is wrong with the logs of these, once they are as long as their engines'."""
        deadline = time.monotonic() + seconds
        while True:
            rows = self.stack.sql(
                "SELECT conversation_id AS key, array_agg(engine_seq ORDER BY seq) AS places, array_agg(event_id ORDER BY seq) AS ids"
                " FROM conversations_event WHERE engine_seq IS NOT NULL AND conversation_id = ANY(%s)"
                " GROUP BY conversation_id",
                keys,
            )
            found = {row["key"]: row for row in rows}
            if all(key in found and len(found[key]["places"]) >= events for key in keys):
                break
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        wanted = list(range(events))
        logs = [found.get(key, {"places": [], "ids": []}) for key in keys]
        gaps = self.stack.sql(
            "SELECT count(*) AS n FROM (SELECT FROM conversations_event WHERE conversation_id = ANY(%s)"
            " GROUP BY conversation_id HAVING max(seq) <> count(*)) AS broken",
            keys,
        )
        return {
            "gaps": gaps[0]["n"],
            "events": sum(len(log["places"]) for log in logs),
            "lost": sum(len(set(wanted) - set(log["places"])) for log in logs),
            "doubled": sum(len(log["ids"]) - len(set(log["ids"])) for log in logs),
            "moved": sum(log["places"] != wanted[: len(log["places"])] for log in logs),
        }

    def stop(self) -> None:
        for engine in self.engines:
            engine.kill()
            engine.wait(10)
            assert engine.stdout
            engine.stdout.close()


@pytest.fixture(scope="module")
def cluster():
    stack = Stack(roles=("web",), environment={"NODE_TTL_SECONDS": "6"})
    stack.start()
    found = Cluster(stack)
    try:
        yield found
    finally:
        found.stop()
        stack.stop()


def test_managers_share_take_over_and_hand_back(cluster):
    stack, count, events = cluster.stack, 12, 50
    stack.add("m1", "manager")
    keys = cluster.converse(count, events=events)
    cluster.until(lambda found: found["m1"] == count)

    stack.add("m2", "manager")
    stack.add("m3", "manager")
    sharing = cluster.until(
        lambda found: sum(found.values()) == count and found["m2"] >= 3 and found["m3"] >= 3
    )
    shares = cluster.follows()

    mine = shares["m2"]
    killed = stack.lose("m2")
    cluster.until(lambda found: found["m1"] + found["m3"] == count)
    takeover = time.monotonic() - killed
    ended = time.monotonic()
    stack.remove("m3")
    cluster.until(lambda found: found["m1"] == count)
    handing_back = time.monotonic() - ended
    verdict = cluster.judge(keys, events=events)

    figure(
        "managers share, are killed and drained",
        conversations=count,
        shares=shares,
        seconds_until_shared=round(sharing, 1),
        taken_over=mine,
        seconds_to_take_over=round(takeover, 1),
        seconds_to_hand_back=round(handing_back, 1),
        **verdict,
    )
    assert takeover <= PROMISED_SECONDS
    assert "is gone; its" in stack.log("m1") + stack.log("m3")
    assert "handed back" in stack.log("m3")
    assert verdict == {"events": count * events, "lost": 0, "doubled": 0, "moved": 0, "gaps": 0}


@pytest.mark.slow
def test_a_paused_manager_learns_that_it_lost_everything(cluster):
    stack, count, events = cluster.stack, 4, 40
    if "m1" not in stack.roles:
        stack.add("m1", "manager")
    keys = cluster.converse(count, events=events)
    everything = len(cluster.keys)
    cluster.until(lambda found: found["m1"] == everything)
    stack.add("m2", "manager")
    cluster.until(lambda found: found["m2"] > 0 and sum(found.values()) == everything)

    stack.signal("m2", signal.SIGSTOP)
    try:
        cluster.until(lambda found: found["m1"] == everything)
    finally:
        os.kill(stack.pid("m2"), signal.SIGCONT)
    cluster.until(
        lambda found: (
            "other managers declared this manager dead" in stack.log("m2") and sum(found.values())
        )
    )
    verdict = cluster.judge(keys, events=events)
    stack.remove("m2")

    figure("a manager is paused", **verdict)
    assert verdict == {"events": count * events, "lost": 0, "doubled": 0, "moved": 0, "gaps": 0}


def test_redis_is_away_for_a_while(cluster):
    """Claims, takeover and the log need none of it, and the list of nodes fills again by itself."""
    stack, count, events = cluster.stack, 4, 25
    if "m1" not in stack.roles:
        stack.add("m1", "manager")
    stack.service("Redis").stop()
    try:
        keys = cluster.converse(count, events=events)
        everything = len(cluster.keys)
        cluster.until(lambda found: found["m1"] == everything)
        stack.add("m4", "manager")
        shared = cluster.until(lambda found: found["m4"] > 0)
        verdict = cluster.judge(keys, events=events)
    finally:
        stack.service("Redis").start()
    filled = cluster.wait_for_nodes(3)
    stack.remove("m4")

    figure(
        "Redis is away",
        seconds_until_shared=round(shared, 1),
        seconds_until_nodes_are_back=round(filled, 1),
        **verdict,
    )
    assert verdict == {"events": count * events, "lost": 0, "doubled": 0, "moved": 0, "gaps": 0}


# --- A rolling restart ------------------------------------------------------------


class Watcher(threading.Thread):
    """A socket's end that resumes where it was cut; what it was sent over all its connections."""

    def __init__(self, url: str, key: str, conversation: UUID) -> None:
        super().__init__(daemon=True)
        self.address = f"{url.replace('http', 'ws', 1)}/ws/v1/conversations/{conversation}"
        self.headers = {"Authorization": f"Bearer {key}"}
        self.conversation = conversation
        self.seen: list[int] = []
        self.codes: Counter[int] = Counter()
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.is_set():
            after = self.seen[-1] if self.seen else 0
            try:
                with connect(
                    f"{self.address}?after={after}",
                    additional_headers=self.headers,
                    open_timeout=30,
                    close_timeout=1,
                    proxy=None,
                ) as socket:
                    self._read(socket)
            except ConnectionClosed as closed:
                self.codes[closed.rcvd.code if closed.rcvd else 1006] += 1
            except InvalidStatus as refused:
                self.codes[refused.response.status_code] += 1

    def _read(self, socket: ClientConnection) -> None:
        while not self.done.is_set():
            with contextlib.suppress(TimeoutError):
                frame = json.loads(socket.recv(timeout=0.2))
                assert frame["type"] != "reset"
                if frame["type"] == "event":
                    self.seen.append(frame["seq"])


@pytest.mark.slow
def test_a_rolling_restart_of_every_role_is_not_noticed(cluster):
    stack, events = cluster.stack, 60
    names = {"web2": "web", "realtime": "realtime", "worker": "worker", "m8": "manager"}
    for name, role in names.items():
        stack.add(name, role)
    keys = cluster.converse(4, events=events)
    cluster.until(lambda found: sum(found.values()) == len(cluster.keys))
    cluster.wait_for_nodes(len(stack.roles))
    callers = [
        Caller(Talk(stack.owner, key, {}), keeps=number % 2 == 0) for number, key in enumerate(keys)
    ]
    watchers = [
        Watcher(url, stack.owner.key, key)
        for key in keys[:2]
        for url in (stack.url, stack.realtime_url)
    ]
    before = {name: stack.pid(name) for name in stack.roles}
    for thread in (*callers, *watchers):
        thread.start()
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "rolling_restart", "--json"],
        env=stack.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stderr[-3000:]
    verdict = cluster.judge(keys, events=events)
    lengths = {key: len(Talk(stack.owner, key, {}).rows()) for key in keys}
    deadline = time.monotonic() + 30
    while any(len(one.seen) < lengths[one.conversation] for one in watchers):
        assert time.monotonic() < deadline, [len(one.seen) for one in watchers]
        time.sleep(0.1)
    for thread in (*callers, *watchers):
        thread.done.set()
    for thread in (*callers, *watchers):
        thread.join(30)
    replaced = [json.loads(line) for line in done.stdout.splitlines()]
    after = {name: stack.pid(name) for name in stack.roles}
    fresh = sum((one.answers for one in callers if not one.keeps), Counter())
    kept = sum((one.answers for one in callers if one.keeps), Counter())
    codes = sum((one.codes for one in watchers), Counter())
    for name in names:
        stack.remove(name)

    figure(
        "a rolling restart",
        seconds=round(seconds, 1),
        processes=Counter(one["role"] for one in replaced),
        slowest=max(one["seconds"] for one in replaced),
        new_connections=fresh,
        kept_connections=kept,
        socket_ends=codes,
        **verdict,
    )
    assert all(before[name] != after[name] for name in before)
    assert {one["role"] for one in replaced} == {"web", "realtime", "worker", "manager"}
    assert verdict == {"events": 4 * events, "lost": 0, "doubled": 0, "moved": 0, "gaps": 0}
    assert all(one.seen == list(range(1, len(one.seen) + 1)) for one in watchers)
    assert set(fresh) == {"200"}, "a request over a new connection failed"
    assert not [status for status in kept if status.isdigit() and status != "200"]
    assert set(codes) == {1012}


def test_realtime_sends_the_rest_of_http_away(cluster):
    stack = cluster.stack
    stack.add("realtime", "realtime")
    try:
        ready, refused = (
            httpx2.get(f"{stack.realtime_url}{path}", timeout=60, trust_env=False)
            for path in ("/ready", "/api/v1/conversations")
        )
    finally:
        stack.remove("realtime")

    assert ready.status_code == 200
    assert (refused.status_code, refused.json()["code"]) == (421, "misdirected")
