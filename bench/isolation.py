"""The cost of isolation: conversations in bubblewrap sandboxes beside conversations in plain processes.

Each provider runs a whole server with the real engine and the demo model. The conversations run one after the other.
*First event* is the time from the request that creates a conversation with a message to the agent's first event in the
log. The memory is the proportional set size (a page that n processes share counts as one n-th) of all processes
of an idle sandbox after its first answer; for bubblewrap, that includes the keeper, ``bwrap`` and the relay.
"""

import contextlib
import os
import statistics
import time
from typing import Any

import psutil

from bench import report
from tests.fakes.stack import Stack, Talk

CONVERSATIONS = 4
ANSWER_SECONDS = 240


def run() -> list[dict]:
    """Return seconds and megabytes of isolated sandboxes, compared with plain processes."""
    os.environ.setdefault("ENGINE_DIR", _find_engine())
    plain = _measure("process", ALLOW_PROCESS_SANDBOX="true")
    isolated = _measure("bubblewrap")
    seconds, megabytes, own = (statistics.median(column) for column in zip(*isolated, strict=True))
    plain_seconds, plain_megabytes, _ = (
        statistics.median(column) for column in zip(*plain, strict=True)
    )
    return [
        report.figure("isolation", "to the first event", seconds, plain_seconds, unit="s"),
        report.figure("isolation", "memory", megabytes, plain_megabytes, unit="MB"),
        report.figure("isolation", "memory without the engine", own, unit="MB"),
    ]


def _find_engine() -> str:
    from tests.prepare import engine_dir

    return str(engine_dir())


def _measure(provider: str, **environment: str) -> list[tuple[float, float, float]]:
    """Return for each conversation: seconds to the first event, megabytes, and megabytes without the engine."""
    stack = Stack(environment={"SANDBOX_PROVIDER": provider, **environment}).start()
    try:
        return [_converse(stack) for _ in range(CONVERSATIONS)]
    finally:
        stack.stop()


def _converse(stack: Stack) -> tuple[float, float, float]:
    began = time.monotonic()
    talk = stack.owner.converse(message="Say hello.")
    while not any(event["source"] == "agent" for event in talk.events()):
        if time.monotonic() - began > ANSWER_SECONDS:
            raise TimeoutError(f"The agent did not answer: {talk.record()}")
        time.sleep(0.05)
    seconds = time.monotonic() - began
    talk.wait_status("finished", "idle", seconds=ANSWER_SECONDS)
    sizes = _measure_processes(talk)
    talk.owner.call("POST", f"{talk.path}/sandbox/pause")
    return seconds, sum(sizes.values()), sum(sizes.values()) - max(sizes.values())


def _measure_processes(talk: Talk) -> dict[int, float]:
    """Return the megabytes of each process of a sandbox, by its process id."""
    handle: dict[str, Any] = talk.sandbox()["handle"]
    root = psutil.Process(handle["pid"])  # the keeper, or the engine itself
    sizes: dict[int, float] = {}
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            sizes[process.pid] = process.memory_full_info().pss / 1_000_000
    return sizes
