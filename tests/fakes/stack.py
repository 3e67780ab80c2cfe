"""A complete server for tests: the real roles as processes, with a PostgreSQL and a Redis of their own.

Only the supervisor is replaced, so that a test can kill, stop and restart any process. The server has the test
process's encryption keys, so a test can open a sandbox's sealed keys and read the engine's own log.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import psutil
import psycopg
import pytest
from psycopg.rows import dict_row
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from conversations.engine.client import EngineClient
from conversations.engine.payloads import Durable
from conversations.sandboxes.engine_environment import MODULE
from conversations.sandboxes.provider import get_provider
from lib import crypto
from lib.processes import all_processes
from openhands_site.operating import embedded
from tests.prepare import ROOT
from tests.waiting import wait_until

RESTART_SECONDS = 1.0
"""The supervisor's pause before the first restart of a role."""
KEYS = ("SECRET_KEY", "ENCRYPTION_KEYS", "TOKEN_PEPPERS", "ENGINE_DIR")
ROLES = {
    "web": ["run_web"],
    "worker": ["run_worker", "--grace", "5"],
    "manager": ["run_conversation_manager"],
    "realtime": ["run_realtime"],
}
# The process ends with the thread that started it, like the supervisor's children. `preexec_fn` would not be
# safe in a process with threads, so the child sets this for itself before it starts the program.
_DIE_WITH_US = """\
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
_MAKE_PEOPLE = """\
import json, sys
import django
django.setup()
from django.core.management import call_command
call_command("migrate", interactive=False, verbosity=0)
from accounts import services
keys = {}
for name in sys.argv[1:]:
    user = services.create_user(email=f"{name}@example.com", name=name)
    _, key = services.issue_api_key(user=user, name="test")
    keys[name] = {"id": str(user.pk), "organization": str(user.personal_organization.pk), "key": key}
print(json.dumps(keys))
"""


@dataclass
class Role:
    """A process that is started again when it ends."""

    name: str
    arguments: list[str]
    process: "subprocess.Popen[bytes] | None" = None
    due_at: float | None = 0.0
    starts: int = 0


@dataclass
class Person:
    """A user with an API key."""

    name: str
    id: str
    organization: str
    key: str
    stack: "Stack" = field(repr=False)

    def call(
        self, method: str, path: str, *, expect: int | None = None, **request: Any
    ) -> httpx2.Response:
        """Send a request below ``/api/v1``, again and again while web restarts. Return the response.

        A request without a response is repeated although it may have been executed, so a POST needs an
        idempotency key in tests that kill web.
        """
        headers = {"Authorization": f"Bearer {self.key}"} | request.pop("headers", {})
        deadline = time.monotonic() + 30
        while True:
            try:
                answer = httpx2.request(
                    method,
                    f"{self.stack.url}/api/v1/{path}",
                    headers=headers,
                    timeout=30,
                    trust_env=False,
                    **request,
                )
                break
            except httpx2.TransportError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        if expect is not None:
            assert answer.status_code == expect, (
                method,
                path,
                answer.status_code,
                answer.text[:500],
            )
        return answer

    def get(self, path: str, **query: Any) -> Any:
        return self.call("GET", path, expect=200, params=query).json()

    def converse(self, *, headers: dict[str, str] | None = None, **body: Any) -> "Talk":
        """Create a conversation."""
        answer = self.call("POST", "conversations", expect=201, json=body, headers=headers or {})
        return Talk(self, UUID(answer.json()["id"]), answer.json())

    def socket(self, conversation_id: UUID, *, after: int = 0, **options: Any) -> ClientConnection:
        """Open the socket of a conversation."""
        url = self.stack.url.replace("http", "ws", 1)
        return connect(
            f"{url}/ws/v1/conversations/{conversation_id}?after={after}",
            additional_headers={"Authorization": f"Bearer {self.key}"},
            open_timeout=30,
            close_timeout=1,
            proxy=None,
            **options,
        )


@dataclass
class Talk:
    """A conversation, with access to its record, its log, its sandbox and its engine."""

    owner: Person
    id: UUID
    created: dict[str, Any] = field(repr=False)

    @property
    def path(self) -> str:
        return f"conversations/{self.id}"

    @property
    def stack(self) -> "Stack":
        return self.owner.stack

    def record(self) -> dict[str, Any]:
        return self.owner.get(self.path)

    def post(self, action: str, *, expect: int | None = 202, **body: Any) -> Any:
        return self.owner.call("POST", f"{self.path}/{action}", expect=expect, json=body).json()

    def say(self, text: str, **body: Any) -> dict[str, Any]:
        return self.post("messages", text=text, **body)

    def wait(
        self, is_there: Callable[[dict[str, Any]], Any], *, seconds: float = 90, pause: float = 0.05
    ) -> dict[str, Any]:
        """Return the record as soon as ``is_there(record)`` is true."""
        deadline = time.monotonic() + seconds
        while not is_there(record := self.record()):
            if time.monotonic() > deadline:
                pytest.fail(
                    f"The record is not as expected after {seconds} s: {json.dumps(record, indent=1)}"
                )
            time.sleep(pause)
        return record

    def wait_ready(self, *, seconds: float = 250) -> dict[str, Any]:
        def is_ready(record: dict[str, Any]) -> bool:
            assert record["status"] != "failed", record
            return record["status"] == "running"

        return self.wait(is_ready, seconds=seconds)

    def wait_status(self, *statuses: str, after: int = 0, seconds: float = 90) -> dict[str, Any]:
        """Return the record as soon as the agent has one of these states and the log goes beyond ``after``."""

        def is_there(record: dict[str, Any]) -> bool:
            return record["execution_status"] in statuses and record["last_seq"] > after

        return self.wait(is_there, seconds=seconds)

    def do(self, text: str, *statuses: str, seconds: float = 90) -> dict[str, Any]:
        """Post a message and wait until its run ends in one of the states (by default ``finished``)."""
        message = self.say(text)
        self.wait_run(message["seq"], seconds=seconds)
        return self.wait_status(*(statuses or ("finished",)), seconds=seconds)

    def wait_run(self, after: int, *, seconds: float = 90) -> None:
        """Wait until a run begins in the log after ``after``."""
        wait_until(
            lambda: any(state_of(event) == "running" for event in self.events(after=after)),
            f"a run to begin after event {after} of {self.id}",
            seconds=seconds,
        )

    def events(self, *, after: int = 0) -> list[dict[str, Any]]:
        """Return our log, read page by page over REST."""
        events: list[dict[str, Any]] = []
        while True:
            page = self.owner.get(f"{self.path}/events", after=after, limit=500)["items"]
            events += page
            if len(page) < 500:
                return events
            after = page[-1]["seq"]

    def rows(self) -> list[dict[str, Any]]:
        """Return our log, read by SQL."""
        return self.stack.sql(
            "SELECT seq, event_id, kind, source, payload, engine_seq FROM conversations_event"
            " WHERE conversation_id = %s ORDER BY seq",
            self.id,
        )

    def sandbox(self) -> dict[str, Any]:
        return self.stack.sql(
            "SELECT s.* FROM conversations_sandbox s JOIN conversations_conversation c ON c.sandbox_id = s.id"
            " WHERE c.id = %s",
            self.id,
        )[0]

    def project(self) -> Path:
        """Return the folder of the agent's project on this machine, whatever its path in the sandbox is."""
        return Path(self.sandbox()["handle"]["dir"], "project")

    def engine(self) -> EngineClient:
        """Return a client that calls the conversation's engine directly."""
        row = self.sandbox()
        key = crypto.open_sealed(
            bytes(row["sealed_session_key"]), bound_to=f"sandbox.session:{row['id']}"
        )
        return EngineClient(partial(get_provider(row["provider"]).dial, row["handle"]), key)

    def engine_log(self) -> list[Durable]:
        """Return the engine's own log, from its first event."""
        return list(self.engine().iter_events(self.id))

    def engine_pid(self) -> int:
        """Return the process id of the engine on this machine."""
        row = self.sandbox()
        handle: dict[str, Any] = row["handle"]
        if row["provider"] == "process":
            return int(handle["pid"])
        keeper = json.loads(Path(handle["dir"], "keeper.json").read_text())
        init = psutil.Process(keeper["init"])
        [engine] = [child for child in init.children() if MODULE in child.cmdline()]
        return int(engine.pid)

    def kill_engine(self) -> float:
        """Kill the engine (SIGKILL). Return the time."""
        os.kill(self.engine_pid(), signal.SIGKILL)
        return time.monotonic()

    def compare_logs(self, *, seconds: float = 10) -> int:
        """Assert that our log holds every event of the engine's log once and in order. Return the number of events."""
        deadline = time.monotonic() + seconds
        while True:
            engine_events = self.engine_log()
            rows = self.rows()
            engine_rows = [row for row in rows if row["engine_seq"] is not None]
            if len(engine_rows) >= len(engine_events) and self.engine().count_events(
                self.id
            ) == len(engine_events):
                break
            assert time.monotonic() < deadline, (
                f"{len(engine_rows)} of the engine's {len(engine_events)} events are in our log"
            )
            time.sleep(0.2)
        assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
        assert [row["engine_seq"] for row in engine_rows] == [item.seq for item in engine_events]
        assert [row["event_id"] for row in engine_rows] == [
            item.event.event_id for item in engine_events
        ]
        assert [row["kind"] for row in engine_rows] == [item.event.kind for item in engine_events]
        folder = self.sandbox()["handle"]["dir"]
        for row, item in zip(engine_rows, engine_events, strict=True):
            # In a sandbox without isolation, the engine reports the server's folder of the sandbox.
            payload = item.event.payload.replace(folder, "/workspace")
            assert json.loads(row["payload"]) == json.loads(payload)
        rest_events = self.events()
        assert [(e["seq"], e["event_id"]) for e in rest_events] == [
            (r["seq"], r["event_id"]) for r in rows
        ]
        assert [e["payload"] for e in rest_events] == [json.loads(r["payload"]) for r in rows]
        return len(engine_events)

    def deliveries(self) -> list[str]:
        """Return the texts of the user's messages in the engine's log, in order."""
        payloads = [
            json.loads(one.event.payload) for one in self.engine_log() if one.event.source == "user"
        ]
        return [
            "".join(part.get("text", "") for part in payload["llm_message"]["content"])
            for payload in payloads
            if payload["kind"] == "MessageEvent"
        ]


def state_of(event: dict[str, Any]) -> str | None:
    """Return the agent's new state in an event, or None if the event reports no state."""
    payload = event["payload"]
    is_state = (
        event["kind"] == "ConversationStateUpdateEvent" and payload.get("key") == "execution_status"
    )
    return payload.get("value") if is_state else None


def closing_code(
    socket: ClientConnection, *, seconds: float = 20
) -> tuple[int, list[dict[str, Any]]]:
    """Read a socket until the server closes it. Return the close code (1006 without one) and the frames before."""
    frames = []
    try:
        while True:
            frames.append(json.loads(socket.recv(timeout=seconds)))
    except ConnectionClosed as closed:
        return (closed.rcvd.code if closed.rcvd else 1006), frames


def figure(name: str, **values: Any) -> None:
    """Print a measurement as a JSON line."""
    print("\n" + json.dumps({"test": name} | values), flush=True)


class Stack:
    """A running server. ``roles`` are the processes; ``environment`` overrides settings."""

    def __init__(
        self,
        *,
        roles: tuple[str, ...] = ("web", "worker", "manager"),
        environment: dict[str, str] | None = None,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="oh-stack-"))
        self.roles = {name: Role(name, list(ROLES[name])) for name in roles}
        self.people: dict[str, Person] = {}
        self._more = environment or {}
        self._ending = threading.Event()
        self._lock = threading.RLock()
        self._keeper = threading.Thread(target=self._keep, name="stack", daemon=True)

    # --- Up and down ---

    def start(self) -> "Stack":
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self) -> None:
        (self.folder / "logs").mkdir()
        with warnings.catch_warnings():  # of a fork in a process with threads
            warnings.simplefilter("ignore")
            self.services = embedded.start(self.folder / "services", durable=False)
        # We hold the listening socket, as the supervisor does: while web restarts, callers wait.
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        os.set_inheritable(self.listener.fileno(), True)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.realtime_listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        os.set_inheritable(self.realtime_listener.fileno(), True)
        self.realtime_url = f"http://127.0.0.1:{self.realtime_listener.getsockname()[1]}"
        # The only port at which the server looks for model servers. A test starts one there.
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.model_port = free.getsockname()[1]
        self.environment = self._environment()
        people = json.loads(self.python(_MAKE_PEOPLE, "owner", "stranger"))
        self.people = {
            name: Person(name=name, stack=self, **person) for name, person in people.items()
        }
        self._keeper.start()
        self.wait_web()

    @property
    def owner(self) -> Person:
        return self.people["owner"]

    @property
    def stranger(self) -> Person:
        return self.people["stranger"]

    def _environment(self) -> dict[str, str]:
        inherited = ("PATH", "HOME", "LANG", "TMPDIR", "USER", "XDG_RUNTIME_DIR")
        return (
            {name: os.environ[name] for name in inherited if name in os.environ}
            | {name: os.environ[name] for name in KEYS}
            | {
                "DJANGO_SETTINGS_MODULE": "openhands_site.settings",
                "DATABASE_URL": self.services.database_url,
                "REDIS_URL": self.services.redis_url,
                "DATA_DIR": str(self.folder),
                "PUBLIC_URL": self.url,
                "ALLOWED_HOSTS": "127.0.0.1",
                # The fake Git hosts and model servers of tests listen on this machine.
                "SANDBOX_PRIVATE_HOSTS": "127.0.0.0/8,localhost",
                # A loaded machine needs more than the default of two minutes for the engine's 8 s of processor time.
                "SANDBOX_START_SECONDS": "240",
                "SANDBOX_MAX_RUNNING": "30",  # the sandboxes of one test still run in the next test
                "UPSTREAM_ALLOW_PRIVATE": "true",
                "MODEL_SERVER_PORTS": str(self.model_port),
                "RATE_LIMITS": "off",  # tests send more requests per key than users
                "LOG_FORMAT": "text",
                "PYTHONUNBUFFERED": "1",
                "PYTHONWARNINGS": "ignore:No directory at:UserWarning",
            }
            | self._more
        )

    def wait_web(self, *, seconds: float = 60) -> None:
        """Wait until web responds to ``/ready``."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(httpx2.TransportError):
                if httpx2.get(f"{self.url}/ready", timeout=5, trust_env=False).status_code == 200:
                    return
            assert time.monotonic() < deadline, "web does not respond:\n" + self.tail("web")
            time.sleep(0.1)

    def stop(self) -> None:
        """End all processes and delete all files, even after an error. Raise if a process had to be killed."""
        with (
            contextlib.ExitStack() as steps
        ):  # steps run from the last to the first, also after an error
            steps.callback(shutil.rmtree, self.folder, ignore_errors=True)
            steps.callback(self._end_left)
            if hasattr(self, "listener"):
                steps.callback(self.listener.close)
            if hasattr(self, "realtime_listener"):
                steps.callback(self.realtime_listener.close)
            if hasattr(self, "services"):
                steps.callback(self.services.stop)
            steps.callback(self._destroy_sandboxes)
            self._end_roles()

    def _end_roles(self) -> None:
        with self._lock:
            self._ending.set()
            for role in self.roles.values():
                if role.process and role.process.poll() is None:
                    with contextlib.suppress(OSError):
                        role.process.send_signal(signal.SIGCONT)
                        role.process.terminate()
            stubborn = [role.name for role in self.roles.values() if not _ended(role.process, 20)]
        if self._keeper.ident:
            self._keeper.join(10)
        assert not stubborn, f"these did not end on SIGTERM: {stubborn}"

    def _destroy_sandboxes(self) -> None:
        for path in self.folder.glob("sandboxes/*/run.json"):
            handle = json.loads(path.read_text())
            # Only bubblewrap's handles have a root, the path of the folder inside the sandbox.
            provider = "bubblewrap" if "root" in handle else "process"
            get_provider(provider).destroy(handle)

    def _end_left(self) -> None:
        left = self._left()
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        assert not left, f"these were left running: {left}"

    def _left(self) -> list[psutil.Process]:
        """Return the processes with our folder in their environment or command line."""
        mark, processes = str(self.folder), []
        for process in all_processes():
            with contextlib.suppress(psutil.Error, OSError):
                words = [*process.cmdline(), *process.environ().values()]
                is_ours = process.pid != os.getpid() and any(mark in word for word in words)
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    processes.append(process)
        return processes

    # --- Roles ---

    def _keep(self) -> None:
        """Start the roles that are due, and restart those that ended. Our children end with this thread."""
        while not self._ending.wait(0.05):
            with self._lock:
                for role in self.roles.values():
                    if role.process and role.process.poll() is not None:
                        role.process = None
                        role.due_at = time.monotonic() + RESTART_SECONDS
                    due = role.due_at is not None and time.monotonic() >= role.due_at
                    if role.process is None and due and not self._ending.is_set():
                        self._launch(role)
        while any(role.process and role.process.poll() is None for role in self.roles.values()):
            time.sleep(0.05)

    def _launch(self, role: Role) -> None:
        fds = {
            "run_web": self.listener.fileno(),
            "run_realtime": self.realtime_listener.fileno(),
        }
        fd = fds.get(role.arguments[0])
        arguments = [*role.arguments, *(["--fd", str(fd)] if fd is not None else [])]
        command = [
            sys.executable,
            "-c",
            _DIE_WITH_US,
            sys.executable,
            str(ROOT / "manage.py"),
            *arguments,
        ]
        with (self.folder / "logs" / f"{role.name}.log").open("ab") as log:
            role.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environment | {"OH_ROLE": role.name},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[] if fd is None else [fd],
                start_new_session=True,
            )
        role.starts += 1
        role.due_at = None

    def add(self, name: str, role: str) -> None:
        """Start a further process of a role."""
        with self._lock:
            self.roles[name] = Role(name, list(ROLES[role]))

    def remove(self, name: str) -> None:
        """End a process with SIGTERM and do not restart it."""
        with self._lock:
            role = self.roles.pop(name)
            if role.process:
                role.process.terminate()
        assert _ended(role.process, 20), f"{name} did not end on SIGTERM"

    def lose(self, *names: str) -> float:
        """Kill processes (SIGKILL) and do not restart them, as if their machine failed. Return the time."""
        with self._lock:
            lost = [process for name in names if (process := self.roles.pop(name).process)]
            assert len(lost) == len(names)
            for process in lost:
                process.kill()
            killed = time.monotonic()
        for process in lost:
            process.wait(10)
        return killed

    def pid(self, name: str, *, seconds: float = 30) -> int:
        """Return the process id of a role as soon as it runs."""

        def running_pid() -> int | None:
            with self._lock:
                process = self.roles[name].process
                return process.pid if process is not None and process.poll() is None else None

        pid = wait_until(running_pid, f"{name} to run", seconds=seconds, pause=0.02)
        assert pid is not None
        return pid

    def signal(self, name: str, number: int) -> float:
        """Send a signal to a role. Return the time."""
        os.kill(self.pid(name), number)
        return time.monotonic()

    def kill(self, name: str) -> float:
        """Kill a role (SIGKILL); it is restarted like by the supervisor. Return the time."""
        return self.signal(name, signal.SIGKILL)

    def manager_of(self, talk: Talk) -> str | None:
        """Return the name of the role that follows a conversation now, or None."""
        rows = self.sql(
            "SELECT owner FROM conversations_lease JOIN conversations_livemanager USING (owner)"
            " WHERE conversation_id = %s AND expires_at > now() AND following_run IS NOT NULL",
            talk.id,
        )
        if not rows or not rows[0]["owner"]:
            return None
        pid = int(rows[0]["owner"].split(":")[-2])
        with self._lock:
            return next(
                (r.name for r in self.roles.values() if r.process and r.process.pid == pid), None
            )

    # --- Direct access to the database and the services ---

    def sql(self, query: str, *arguments: Any) -> list[dict[str, Any]]:
        with psycopg.connect(
            self.services.database_url, autocommit=True, row_factory=dict_row
        ) as connection:
            cursor = connection.execute(query, arguments)
            return cursor.fetchall() if cursor.description else []

    def python(self, code: str, *arguments: str) -> str:
        """Run code with the server's environment. Return its output."""
        command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def service(self, name: str) -> Any:
        """Return the service ``PostgreSQL`` or ``Redis``, which has ``stop`` and ``start``."""
        return next(one for one in self.services._services if one.name == name)

    def restart_service(self, name: str) -> None:
        """Stop ``PostgreSQL`` or ``Redis`` and start it again immediately."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.service(name).stop()
            self.service(name).start()

    def log(self, name: str) -> str:
        path = self.folder / "logs" / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def tail(self, name: str, lines: int = 60) -> str:
        return "\n".join(self.log(name).splitlines()[-lines:])


def _ended(process: "subprocess.Popen[bytes] | None", seconds: float) -> bool:
    if process is None:
        return True
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
        return False
    return True


# --- For conftest.py --------------------------------------------------------------

_shared: list[Stack] = []


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A running server that all tests of this process share."""
    if not _shared:
        _shared.append(Stack().start())
    yield _shared[0]
    while _shared:
        _shared.pop().stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any):
    """Add the logs of the roles to the report of a failed test."""
    report = yield
    if report.failed:
        for running in _shared:
            for name in running.roles:
                report.sections.append((f"log of {name}", running.tail(name)))
    return report
