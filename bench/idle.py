"""The benchmark of idle sockets: the memory of a web process before and after a thousand sockets are opened."""

from typing import Any

from bench import logs, report
from bench.server import Server
from bench.sockets import Crowd

SOCKETS = 1_000
CONVERSATIONS = 100
WARM = 50


def run() -> list[dict[str, Any]]:
    """Return the memory of a thousand sockets on a hundred conversations, compared with a minimal ASGI application."""
    user, header = logs.user_with_key()
    paths = [f"/ws/v1/conversations/{logs.conversation(user).pk}" for _ in range(CONVERSATIONS)]
    server = Server()
    try:
        ours = _grown(server, paths, header)
    finally:
        server.close()
    server = Server()
    try:
        bare = _grown(server, ["/bare"], "")
    finally:
        server.close()
    return [
        report.figure("idle", "1,000 sockets", ours, bare, unit="MiB", reach="<= 20 MB"),
    ]


def _grown(server: Server, paths: list[str], header: str) -> float:
    warm = Crowd(server.port, paths[:1] * WARM, "{", headers=header)
    warm.ready()
    before = server.ask("memory")
    crowd = Crowd(server.port, paths * (SOCKETS // len(paths)), "{", headers=header)
    try:
        crowd.ready()
        return float(server.ask("memory") - before) / 2**20
    finally:
        crowd.close()
        warm.close()
