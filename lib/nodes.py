"""The list of nodes (running processes): each process announces itself in Redis with a time to live.

The list is for operators only. Leases, jobs, the event log and delivery do not depend on it. While Redis is
unavailable the list cannot be read. Afterwards the next announcements fill it again, even if Redis lost its data.
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

from lib import open_files
from lib.disk import Disk, data_disk
from lib.problems import Problem

log = logging.getLogger(__name__)
INDEX = "oh:{nodes}"
"""The key of the sorted set of node ids, by the time of the last announcement.

The braces make Redis Cluster store this key and the keys of all nodes in one slot.
"""
MAX_NODES = 1_000
Figures = Callable[[], dict[str, float]]


class NodeListUnavailable(Problem):
    """Redis does not respond, so the list of nodes cannot be read."""

    status = 503
    code = "registry-unavailable"
    sentence = "The list of nodes cannot be read because Redis does not respond. The processes themselves keep running."


class Node(msgspec.Struct, frozen=True):
    """A process of the server, as in its last announcement.

    ``address`` is the address that the process listens on, empty if it does not listen. ``load`` has figures by name:
    ``cpu_percent`` (100 is one core), ``memory_bytes``, ``open_files`` and ``open_files_limit``, the free space of the
    data folder's disk, and figures of the role such as ``sockets``, ``conversations`` and ``jobs``.
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

    @property
    def warnings(self) -> list[str]:
        """Return sentences about the limit of open files and the disk of this process, if they need attention."""
        load, warnings = self.load, []
        limit, used = load.get("open_files_limit", 0), load.get("open_files", 0)
        if 0 < limit < open_files.ENOUGH:
            warnings.append(open_files.describe_low(int(limit)))
        if limit and used > limit * 0.9:
            warnings.append(
                f"{used:,.0f} of {limit:,.0f} files are open, so connections fail soon."
            )
        if "disk_free_percent" in load:
            files = int(
                load.get("disk_free_files", -1)
            )  # a node of the previous release sends none
            disk = Disk(
                int(load.get("disk_free_bytes", 0)),
                load["disk_free_percent"],
                None if files < 0 else files,
                load.get("disk_free_files_percent", 100.0),
                bool(load.get("disk_is_read_only", 0)),
            )
            warnings += [sentence] if (sentence := disk.sentence()) else []
        return warnings


class Announcement:
    """The announcement of this process. A daemon thread sends it three times per ``NODE_TTL_SECONDS``."""

    def __init__(self, role: str, *, address: str = "", node_id: str = "", load: Figures) -> None:
        self.id = node_id or new_id()
        self.role = role
        self.address = settings.NODE_ADDRESS or address
        self.is_draining = False
        self._load = load
        self._started_at = datetime.now(UTC)
        self._process = psutil.Process()
        self._process.cpu_percent()  # psutil measures from one call to the next
        self._wake = threading.Event()
        self._ended = False
        self._failures = 0
        self._client = client()
        self._thread = threading.Thread(target=self._run, name="node", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def drain(self) -> None:
        """Announce immediately that this process is stopping and accepts no new work. Safe to repeat."""
        self.is_draining = True
        self._wake.set()

    def end(self) -> None:
        """Remove this process from the list. If Redis is unavailable, the entry expires. Safe to repeat."""
        self._ended = True
        self._wake.set()
        self._thread.join(3)
        with contextlib.suppress(redis.RedisError, OSError):
            pipeline = self._client.pipeline(transaction=False)
            pipeline.delete(_key(self.id))
            pipeline.zrem(INDEX, self.id)
            pipeline.execute()
        self._client.close()

    def _run(self) -> None:
        while not self._ended:
            self._wake.clear()
            self._send()
            self._wake.wait(settings.NODE_TTL_SECONDS / 3)

    def _send(self) -> None:
        try:
            pipeline = self._client.pipeline(transaction=False)
            pipeline.set(
                _key(self.id), msgspec.json.encode(self.node()), ex=settings.NODE_TTL_SECONDS
            )
            pipeline.zadd(INDEX, {self.id: time.time()})
            # Ids are never used again, so many restarts would otherwise let the index grow without limit.
            pipeline.zremrangebyrank(INDEX, 0, -MAX_NODES - 1)
            pipeline.expire(INDEX, settings.NODE_TTL_SECONDS)
            pipeline.execute()
        except (redis.RedisError, OSError) as error:
            self._failures += 1
            # One line per power of 100, so that an outage of Redis does not flood the log.
            if self._failures in (1, 100, 10_000):
                log.warning(
                    "this process is missing from the list of nodes because Redis failed: %s",
                    type(error).__name__,
                )
        else:
            if self._failures:
                log.info("this process is in the list of nodes again")
            self._failures = 0

    def node(self) -> Node:
        """Return the current announcement."""
        with self._process.oneshot():
            own: dict[str, float] = {
                "cpu_percent": self._process.cpu_percent(),
                "memory_bytes": self._process.memory_info().rss,
                "open_files": self._process.num_fds(),
                "open_files_limit": open_files.limit(),
            }
        if (disk := data_disk()) is not None:
            own["disk_free_percent"] = round(disk.free_percent, 1)
            own["disk_free_bytes"] = disk.free_bytes
            own["disk_free_files_percent"] = round(disk.free_files_percent, 1)
            own["disk_free_files"] = -1 if disk.free_files is None else disk.free_files
            own["disk_is_read_only"] = int(disk.is_read_only)
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


class _Current:
    """The announcement of this process while ``announce`` runs."""

    announcement: Announcement | None = None


@contextlib.contextmanager
def announce(
    role: str, *, address: str = "", node_id: str = "", load: Figures = dict
) -> Iterator[Announcement]:
    """Announce this process in the list of nodes until the block ends.

    ``load`` returns the figures of the role. It is called in another thread, so it must be fast and must not raise.
    """
    _Current.announcement = announcement = Announcement(
        role, address=address, node_id=node_id, load=load
    )
    announcement.start()
    try:
        yield announcement
    finally:
        announcement.end()
        _Current.announcement = None


def is_draining() -> bool:
    """Return whether this process is stopping. A load balancer must then send no new requests to it."""
    return _Current.announcement is not None and _Current.announcement.is_draining


def list_nodes() -> list[Node]:
    """Return the running processes, at most ``MAX_NODES``, sorted by role, host and start time.

    Takes two calls to Redis. Raise ``NodeListUnavailable`` if Redis does not respond.
    """
    try:
        with client() as connection:
            ids = [key.decode() for key in connection.zrevrange(INDEX, 0, MAX_NODES - 1)]
            texts = connection.mget([_key(node_id) for node_id in ids]) if ids else []
            expired = [node_id for node_id, text in zip(ids, texts, strict=True) if text is None]
            if expired:
                connection.zrem(INDEX, *expired)
    except (redis.RedisError, OSError) as error:
        raise NodeListUnavailable(retry_after=5) from error
    nodes = []
    for text in texts:
        # Skip announcements of a process whose version has different fields.
        with contextlib.suppress(msgspec.MsgspecError):
            if text is not None:
                nodes.append(msgspec.json.decode(text, type=Node))
    return sorted(nodes, key=lambda node: (node.role, node.host, node.started_at, node.id))


def new_id() -> str:
    """Return a unique id for this process: ``host:process id:random``."""
    return f"{socket.gethostname()[:60]}:{os.getpid()}:{secrets.token_hex(4)}"


def client() -> redis.Redis:
    """Return a Redis client with the timeout ``REDIS_TIMEOUT_MS``."""
    seconds = settings.REDIS_TIMEOUT_MS / 1000
    connection: redis.Redis = redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=seconds, socket_connect_timeout=seconds
    )
    return connection


def _key(node_id: str) -> str:
    return f"{INDEX}:{node_id}"
