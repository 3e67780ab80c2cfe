"""A rolling restart: the processes of this machine one after the other, each replaced before the next ends.

Whatever supervises them (systemd, quickstart, a container runtime) starts them again; here they are asked to end
and their successors waited for, by the list of nodes.
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
"""Who depends on nobody's requests first."""
LISTENING = ("realtime", "web")
LOOK_SECONDS = 0.1


class NotReplaced(Exception):
    """A process did not end, or none came in its place: the restart stops here, the others go on serving."""


@dataclass(frozen=True)
class Replaced:
    """One process and its successor, and the seconds from asking the one to the other being ready."""

    before: Node
    after: Node
    seconds: float


def plan(roles: Collection[str]) -> list[Node]:
    """The processes of this machine to be restarted, in order. Raises ``RegistryUnavailable``."""
    here = socket.gethostname()
    own = [node for node in nodes.fleet() if node.host == here and _process(node)]
    return sorted(
        (node for node in own if node.role in roles), key=lambda node: ORDER.index(node.role)
    )


def restart(
    planned: list[Node], *, seconds: float, say: Callable[[str], None]
) -> Iterator[Replaced]:
    """End one after the other by SIGTERM, each once the one before is replaced and ready.

    ``seconds`` is how long each may take. Raises ``NotReplaced`` and ``RegistryUnavailable``.
    """
    for node in planned:
        started = time.monotonic()
        known = {one.id for one in nodes.fleet()}
        process = _process(node)
        if process is None:
            say(f"{node.role} {node.pid} is gone already")
            continue
        os.kill(node.pid, signal.SIGTERM)
        after = _successor(node, process, known, deadline=started + seconds)
        yield Replaced(node, after, round(time.monotonic() - started, 1))


def _successor(node: Node, process: psutil.Process, known: set[str], *, deadline: float) -> Node:
    while True:
        ended = not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        fresh = [
            one
            for one in nodes.fleet()
            if one.role == node.role and one.host == node.host and one.id not in known
        ]
        if ended and fresh and (node.role not in LISTENING or _is_ready(fresh[0].address)):
            return fresh[0]
        if time.monotonic() > deadline:
            reason = "nothing came in its place" if ended else "it does not end"
            raise NotReplaced(f"{node.role} {node.pid}: {reason}. The others were left alone.")
        time.sleep(LOOK_SECONDS)


def _process(node: Node) -> psutil.Process | None:
    """The process of an entry, if it is still that one and not another that was given its number."""
    try:
        process = psutil.Process(node.pid)
        is_it = process.create_time() <= node.started_at.timestamp() + 1
    except psutil.Error:
        return None
    return process if is_it else None


def _is_ready(address: str) -> bool:
    host, _, port = address.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - where it listens
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    try:
        connection.request("GET", "/ready", headers={"Host": urlsplit(settings.PUBLIC_URL).netloc})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()
