"""The fleet: each process announces itself in Redis with a time to live, and whoever asks reads who is there.

Only for looking at: claims, jobs, the log and delivery need none of it. While Redis is away there is nothing to
see; when it comes back, empty or not, the next announcements fill it again.
"""

import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import msgspec
import psutil
import redis
from django.conf import settings

from lib.problems import Problem

log = logging.getLogger(__name__)
INDEX = "oh:{nodes}"
"""Ids by the time of their last announcement. The braces keep all keys in one slot of a Redis Cluster."""
MAX_NODES = 1_000
Figures = Callable[[], dict[str, float]]


class RegistryUnavailable(Problem):
    """Redis does not answer, so who is there cannot be said. Nothing else depends on it."""

    status = 503
    code = "registry-unavailable"
    sentence = "The list of nodes is kept in Redis, which does not answer. Everything else goes on."


class Node(msgspec.Struct, frozen=True):
    """One process as it last announced itself.

    ``load`` are figures by name: ``cpu_percent`` (100 is one core), ``memory_bytes``, and the role's own, such as
    ``sockets``, ``conversations``, ``jobs``. ``address`` is where it listens, empty where it does not.
    """

    id: str
    role: str
    version: str
    host: str
    address: str
    pid: int
    started_at: datetime
    seen_at: datetime
    is_draining: bool = False
    load: dict[str, float] = {}


class Announcement:
    """This process's entry: a daemon thread tells it every third of ``NODE_TTL_SECONDS``, at the cost of one call."""

    def __init__(self, role: str, *, address: str = "", node_id: str = "", load: Figures) -> None:
        self.id = node_id or new_id()
        self.role = role
        self.address = settings.NODE_ADDRESS or address
        self.is_draining = False
        self._load = load
        self._started_at = datetime.now(UTC)
        self._process = psutil.Process()
        self._process.cpu_percent()  # the first call only begins the measuring
        self._told = threading.Event()
        self._ended = False
        self._failures = 0
        self._client = client()
        self._thread = threading.Thread(target=self._run, name="node", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def drain(self) -> None:
        """Say at once that this process takes no more work and is about to end. Safe to repeat."""
        self.is_draining = True
        self._told.set()

    def end(self) -> None:
        """Take the entry out; without Redis it lapses by itself. Safe to repeat."""
        self._ended = True
        self._told.set()
        self._thread.join(3)
        with contextlib.suppress(redis.RedisError, OSError):
            pipeline = self._client.pipeline(transaction=False)
            pipeline.delete(_key(self.id))
            pipeline.zrem(INDEX, self.id)
            pipeline.execute()
        self._client.close()

    def _run(self) -> None:
        while not self._ended:
            self._told.clear()
            self._tell()
            self._told.wait(settings.NODE_TTL_SECONDS / 3)

    def _tell(self) -> None:
        try:
            pipeline = self._client.pipeline(transaction=False)
            pipeline.set(
                _key(self.id), msgspec.json.encode(self.node()), ex=settings.NODE_TTL_SECONDS
            )
            pipeline.zadd(INDEX, {self.id: time.time()})
            pipeline.zremrangebyrank(INDEX, 0, -MAX_NODES - 1)
            pipeline.expire(INDEX, settings.NODE_TTL_SECONDS)
            pipeline.execute()
        except (redis.RedisError, OSError) as error:
            self._failures += 1
            if self._failures in (1, 100, 10_000):
                log.warning("this node cannot announce itself: %s", type(error).__name__)
        else:
            if self._failures:
                log.info("this node is announced again")
            self._failures = 0

    def node(self) -> Node:
        """The entry as of now."""
        with self._process.oneshot():
            own = {
                "cpu_percent": self._process.cpu_percent(),
                "memory_bytes": self._process.memory_info().rss,
            }
        return Node(
            id=self.id,
            role=self.role,
            version=settings.VERSION,
            host=socket.gethostname(),
            address=self.address,
            pid=os.getpid(),
            started_at=self._started_at,
            seen_at=datetime.now(UTC),
            is_draining=self.is_draining,
            load=own | self._load(),
        )


class _Here:
    announcement: Announcement | None = None


@contextlib.contextmanager
def announced(
    role: str, *, address: str = "", node_id: str = "", load: Figures = dict
) -> Iterator[Announcement]:
    """Announce this process for as long as the block runs.

    ``load`` gives the role's own figures; it is called from another thread, must be quick and must not fail.
    """
    _Here.announcement = announcement = Announcement(
        role, address=address, node_id=node_id, load=load
    )
    announcement.start()
    try:
        yield announcement
    finally:
        announcement.end()
        _Here.announcement = None


def is_draining() -> bool:
    """Whether this process was told to end: a load balancer must send it nothing more."""
    return _Here.announcement is not None and _Here.announcement.is_draining


def fleet() -> list[Node]:
    """Who is there, by role, host and age: at most ``MAX_NODES``, in two calls. Raises ``RegistryUnavailable``."""
    try:
        with client() as connection:
            ids = [key.decode() for key in connection.zrevrange(INDEX, 0, MAX_NODES - 1)]
            told = connection.mget([_key(one) for one in ids]) if ids else []
            if gone := [one for one, text in zip(ids, told, strict=True) if text is None]:
                connection.zrem(INDEX, *gone)
    except (redis.RedisError, OSError) as error:
        raise RegistryUnavailable(retry_after=5) from error
    found = []
    for text in told:
        with contextlib.suppress(msgspec.MsgspecError):  # of a version that tells it otherwise
            if text is not None:
                found.append(msgspec.json.decode(text, type=Node))
    return sorted(found, key=lambda node: (node.role, node.host, node.started_at, node.id))


def new_id() -> str:
    """A name for this process that no other has had."""
    return f"{socket.gethostname()[:60]}:{os.getpid()}:{secrets.token_hex(4)}"


def client() -> redis.Redis:
    """A connection to the registry's Redis, patient for ``REDIS_TIMEOUT_MS``."""
    patience = settings.REDIS_TIMEOUT_MS / 1000
    found: redis.Redis = redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=patience, socket_connect_timeout=patience
    )
    return found


def _key(node_id: str) -> str:
    return f"{INDEX}:{node_id}"
