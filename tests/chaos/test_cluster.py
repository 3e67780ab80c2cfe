"""Several managers: they share conversations, and the others continue the conversations of one that fails."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from uuid import UUID

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.chaos.callers import Caller
from tests.chaos.cluster import SETTINGS, TAKEOVER_SECONDS, Cluster
from tests.fakes.stack import Stack, Talk, figure
from tests.prepare import ROOT
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster():
    stack = Stack(roles=("web",), environment=SETTINGS | {"NODE_TTL_SECONDS": "6"})
    stack.start()
    running = Cluster(stack)
    try:
        yield running
    finally:
        running.stop()
        stack.stop()


def test_managers_share_conversations_take_over_from_a_killed_one_and_hand_back_on_exit(cluster):
    stack, count, events = cluster.stack, 12, 50
    stack.add("m1", "manager")
    keys = cluster.create_conversations(count, events=events)
    cluster.wait_until_followed(lambda counts: counts["m1"] == count)

    stack.add("m2", "manager")
    stack.add("m3", "manager")
    sharing = cluster.wait_until_followed(
        lambda counts: sum(counts.values()) == count and counts["m2"] >= 3 and counts["m3"] >= 3
    )
    shares = cluster.count_followed()

    orphans = shares["m2"]
    killed = stack.lose("m2")
    cluster.wait_until_followed(lambda counts: counts["m1"] + counts["m3"] == count)
    takeover = time.monotonic() - killed
    ended = time.monotonic()
    stack.remove("m3")
    cluster.wait_until_followed(lambda counts: counts["m1"] == count)
    handing_back = time.monotonic() - ended
    verdict = cluster.judge(keys, events=events)

    figure(
        "managers share, are killed and drained",
        conversations=count,
        shares=shares,
        seconds_until_shared=round(sharing, 1),
        orphaned=orphans,
        seconds_to_take_over=round(takeover, 1),
        seconds_to_hand_back=round(handing_back, 1),
        **verdict,
    )
    assert takeover <= TAKEOVER_SECONDS
    assert "stopped renewing its leases" in stack.log("m1") + stack.log("m3")
    assert "handed back" in stack.log("m3")
    assert verdict == {"events": count * events, "lost": 0, "doubled": 0, "moved": 0, "gaps": 0}


def test_paused_manager_gives_up_its_conversations_after_others_took_them_over(cluster):
    stack, count, events = cluster.stack, 4, 40
    if "m1" not in stack.roles:
        stack.add("m1", "manager")
    keys = cluster.create_conversations(count, events=events)
    total = len(cluster.keys)
    cluster.wait_until_followed(lambda counts: counts["m1"] == total)
    stack.add("m2", "manager")
    cluster.wait_until_followed(lambda counts: counts["m2"] > 0 and sum(counts.values()) == total)

    stack.signal("m2", signal.SIGSTOP)
    try:
        cluster.wait_until_followed(lambda counts: counts["m1"] == total)
    finally:
        os.kill(stack.pid("m2"), signal.SIGCONT)
    cluster.wait_until_followed(
        lambda counts: (
            "other managers declared this manager dead" in stack.log("m2") and sum(counts.values())
        )
    )
    verdict = cluster.judge(keys, events=events)
    stack.remove("m2")

    figure("a manager is paused", **verdict)
    assert verdict == {"events": count * events, "lost": 0, "doubled": 0, "moved": 0, "gaps": 0}


def test_managers_claim_and_follow_conversations_without_redis(cluster):
    stack, count, events = cluster.stack, 4, 25
    if "m1" not in stack.roles:
        stack.add("m1", "manager")
    stack.service("Redis").stop()
    try:
        keys = cluster.create_conversations(count, events=events)
        total = len(cluster.keys)
        cluster.wait_until_followed(lambda counts: counts["m1"] == total)
        stack.add("m4", "manager")
        shared = cluster.wait_until_followed(lambda counts: counts["m4"] > 0)
        verdict = cluster.judge(keys, events=events)
    finally:
        stack.service("Redis").start()
    filled = cluster.wait_for_nodes(3)
    stack.remove("m4")

    figure(
        "Redis is unreachable",
        seconds_until_shared=round(shared, 1),
        seconds_until_nodes_are_back=round(filled, 1),
        **verdict,
    )
    assert verdict == {"events": count * events, "lost": 0, "doubled": 0, "moved": 0, "gaps": 0}


# --- A rolling restart ------------------------------------------------------------


class Watcher(threading.Thread):
    """A WebSocket client that reconnects behind its last event. ``seen`` has the numbers of all events received."""

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


def test_rolling_restart_of_every_role_loses_no_event_and_fails_no_new_connection(cluster):
    stack, events = cluster.stack, 60
    names = {"web2": "web", "realtime": "realtime", "worker": "worker", "m8": "manager"}
    for name, role in names.items():
        stack.add(name, role)
    keys = cluster.create_conversations(4, events=events)
    cluster.wait_until_followed(lambda counts: sum(counts.values()) == len(cluster.keys))
    cluster.wait_for_nodes(len(stack.roles))
    callers = [
        Caller(Talk(stack.owner, key, {}), keeps_connection=number % 2 == 0)
        for number, key in enumerate(keys)
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
    result = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "rolling_restart", "--json"],
        env=stack.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    seconds = time.monotonic() - started
    assert result.returncode == 0, result.stderr[-3000:]
    verdict = cluster.judge(keys, events=events)
    lengths = {key: len(Talk(stack.owner, key, {}).rows()) for key in keys}
    wait_until(
        lambda: all(len(watcher.seen) >= lengths[watcher.conversation] for watcher in watchers),
        "every watcher to receive its whole log",
    )
    for thread in (*callers, *watchers):
        thread.done.set()
    for thread in (*callers, *watchers):
        thread.join(30)
    replaced = [json.loads(line) for line in result.stdout.splitlines()]
    after = {name: stack.pid(name) for name in stack.roles}
    new_results = sum((c.results for c in callers if not c.keeps_connection), Counter())
    kept_results = sum((c.results for c in callers if c.keeps_connection), Counter())
    codes = sum((watcher.codes for watcher in watchers), Counter())
    for name in names:
        stack.remove(name)

    figure(
        "a rolling restart",
        seconds=round(seconds, 1),
        processes=Counter(process["role"] for process in replaced),
        slowest=max(process["seconds"] for process in replaced),
        new_connections=new_results,
        kept_connections=kept_results,
        socket_ends=codes,
        **verdict,
    )
    assert all(before[name] != after[name] for name in before)
    assert {process["role"] for process in replaced} == {"web", "realtime", "worker", "manager"}
    assert verdict == {"events": 4 * events, "lost": 0, "doubled": 0, "moved": 0, "gaps": 0}
    assert all(w.seen == list(range(1, len(w.seen) + 1)) for w in watchers)
    assert set(new_results) == {"200"}, "a request over a new connection failed"
    assert not [status for status in kept_results if status.isdigit() and status != "200"]
    assert set(codes) == {1012}


def test_realtime_rejects_rest_requests_as_misdirected(cluster):
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
