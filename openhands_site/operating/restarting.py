"""Rolling restarts: end this machine's processes one by one, each after the previous one has been replaced.

This module only sends SIGTERM and waits until the new process appears in the list of nodes. A supervisor (systemd,
quickstart or a container runtime) must start the new processes.
"""

import http.client
import os
import signal
import socket
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil
from django.conf import settings

from lib import nodes
from lib.nodes import Node

ORDER = ("manager", "worker", "grpc", "realtime", "web")
"""The order of the restart. Roles that serve no requests come first."""
LISTENING = ("realtime", "web")
"""Roles whose new process must respond at ``/ready`` before the restart continues."""
CHECK_SECONDS = 0.1


class NotReplaced(Exception):
    """A process did not end or was not replaced. The rolling restart stops; the remaining processes keep running."""


@dataclass(frozen=True)
class Replaced:
    """A process and its replacement. ``seconds`` is the time from SIGTERM until the new process was ready."""

    before: Node
    after: Node
    seconds: float


def plan(roles: Collection[str]) -> list[Node]:
    """Return the processes of these roles on this machine, in the order in which to restart them.

    Raise ``NodeListUnavailable`` if Redis does not respond.
    """
    here = socket.gethostname()
    own = [node for node in nodes.list_nodes() if node.host == here and _process(node)]
    return sorted(
        (node for node in own if node.role in roles), key=lambda node: ORDER.index(node.role)
    )


def restart(
    planned: list[Node], *, seconds: float, say: Callable[[str], None]
) -> Iterator[Replaced]:
    """End the processes one by one with SIGTERM. Yield each process and its replacement when the replacement is ready.

    ``seconds`` is the time limit for each process, and ``say`` receives messages for the operator. Raise
    ``NotReplaced`` if the limit is exceeded, and ``NodeListUnavailable`` if Redis does not respond.
    """
    for node in planned:
        started = time.monotonic()
        # Read the list before SIGTERM: a process that is missing in it may be the replacement.
        known = {existing.id for existing in nodes.list_nodes()}
        process = _process(node)
        if process is None:
            say(f"{node.role} {node.pid} has already ended")
            continue
        os.kill(node.pid, signal.SIGTERM)
        after = _wait_for_replacement(node, process, known, deadline=started + seconds)
        yield Replaced(node, after, round(time.monotonic() - started, 1))


def _wait_for_replacement(
    node: Node, process: psutil.Process, known: set[str], *, deadline: float
) -> Node:
    while True:
        has_ended = not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        new = [
            other
            for other in nodes.list_nodes()
            if other.role == node.role and other.host == node.host and other.id not in known
        ]
        if has_ended and new and (node.role not in LISTENING or _is_ready(new[0].address)):
            return new[0]
        if time.monotonic() > deadline:
            reason = (
                "it ended, but no ready process has replaced it. Check that its supervisor starts a new process"
                if has_ended
                else "it did not end after SIGTERM"
            )
            raise NotReplaced(
                f"{node.role} {node.pid}: {reason}. The remaining processes were not restarted."
            )
        time.sleep(CHECK_SECONDS)


def _process(node: Node) -> psutil.Process | None:
    """Return the operating system's process of a node; None if it has ended.

    The start time is compared, because the process id may belong to another program by now.
    """
    try:
        process = psutil.Process(node.pid)
        is_same = process.create_time() <= node.started_at.timestamp() + 1
    except psutil.Error:
        return None
    return process if is_same else None


def _is_ready(address: str) -> bool:
    host, _, port = address.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    try:
        connection.request("GET", "/ready", headers={"Host": urlsplit(settings.PUBLIC_URL).netloc})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()
