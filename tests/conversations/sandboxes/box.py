"""A sandbox under test, for every provider: its provider, its commands, its files and its processes on this machine."""

import contextlib
import http.client
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
from django.conf import settings

from conversations.sandboxes.egress.policy import Policy, Profile
from conversations.sandboxes.engine_environment import MODULE
from conversations.sandboxes.provider import (
    Handle,
    Observed,
    SandboxProvider,
    SandboxSpec,
    State,
    get_provider,
)
from lib.processes import all_processes
from tests.waiting import wait_until

SESSION_KEY, SECRET_KEY = "session-key-of-a-test", "secret-key-of-a-test"


def make_spec(policy: Policy | None = None) -> SandboxSpec:
    policy = policy or Policy(Profile.PUBLIC)
    return SandboxSpec(uuid4(), SESSION_KEY, SECRET_KEY, "http://127.0.0.1:1", policy)


@dataclass
class Box:
    """A sandbox with the fake engine of ``tests.fakes.engine``."""

    name: str
    """The provider's name."""
    spec: SandboxSpec = field(default_factory=make_spec)
    handle: Handle = field(default_factory=dict)

    @property
    def provider(self) -> SandboxProvider:
        return get_provider(self.name)

    @property
    def folder(self) -> Path:
        return settings.SANDBOX_DIR / self.spec.sandbox_id.hex

    @property
    def project(self) -> Path:
        return self.folder / "project"

    # --- The provider's methods ---

    def start(self, *states: State) -> Handle:
        """Start the sandbox and wait for a state, by default ``RUNNING``."""
        self.handle = self.provider.start(self.spec)
        self.wait_for(*(states or (State.RUNNING,)))
        return self.handle

    def resume(self) -> Handle:
        """Resume the sandbox and wait until it runs."""
        self.handle = self.provider.resume(self.spec, self.handle)
        self.wait_for(State.RUNNING)
        return self.handle

    def stop(self, grace_seconds: float = 5) -> None:
        self.provider.stop(self.handle, grace_seconds=grace_seconds)

    def inspect(self) -> Observed:
        return self.provider.inspect(self.handle)

    def wait_for(self, *states: State, seconds: float = 30) -> Observed:
        """Return the observed state as soon as it is one of these states."""

        def observe() -> Observed | None:
            observed = self.inspect()
            assert observed.state != State.FAILED or State.FAILED in states, observed
            return observed if observed.state in states else None

        return wait_until(observe, f"a state of {states}", seconds=seconds)

    def clean_up(self) -> None:
        """Destroy the sandbox. Fail if a process of it is left."""
        if handle := self.provider.find(self.spec.sandbox_id):
            self.provider.destroy(handle)
        wait_until(lambda: not self.processes(), "the processes to end", seconds=5)

    # --- The engine ---

    def instruct(self, instruction: str, text: str = "yes") -> None:
        """Write an instruction for the fake engine into the project. The sandbox need not exist yet."""
        self.project.mkdir(parents=True, exist_ok=True)
        (self.project / instruction).write_text(text)

    def call(
        self, body: str | None = None, *, path: str = "/", key: str = SESSION_KEY
    ) -> tuple[int, dict[str, Any]]:
        """Send a request through ``dial``: POST if there is a body, else GET. Return its status and JSON."""
        connection = http.client.HTTPConnection("engine", timeout=60)
        connection.sock = self.provider.dial(self.handle)
        connection.sock.settimeout(60)
        with contextlib.closing(connection):
            method = "GET" if body is None else "POST"
            connection.request(method, path, body, {"X-Session-API-Key": key})
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def run(self, command: str, *, check: bool = True) -> str:
        """Run a shell command in the project's folder inside the sandbox. Return its output."""
        status, result = self.call(command)
        assert status == 200
        assert result["status"] == 0 or not check, result
        return result["output"]

    def run_python(self, code: str, *, ending: str = "") -> str:
        """Run a Python program inside the sandbox, for example in the background with the ending ``&``."""
        return self.run(f"{self.write_program(code)} {ending}")

    def write_program(self, code: str) -> str:
        """Write a Python program into the project. Return the command that runs it inside the sandbox."""
        (self.project / "program.py").write_text(code)
        return f"{settings.ENGINE_DIR}/bin/python -I program.py"

    def attempt(self, command: str) -> None:
        """Run a shell command that may end the sandbox, and do not wait for it."""

        def post() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.call(command)

        threading.Thread(target=post, daemon=True).start()

    # --- Processes on this machine ---

    def processes(self) -> list[psutil.Process]:
        return list(find_processes(self.spec.sandbox_id))

    def engines(self) -> list[psutil.Process]:
        """Return the engine processes, normally one."""
        return [process for process in self.processes() if MODULE in read_command(process)]

    def engine(self) -> psutil.Process:
        [engine] = self.engines()
        return engine

    def wait_for_daemons(self) -> list[psutil.Process]:
        """Return the two daemons that the fake engine leaves, as soon as both run."""
        files = [self.project / "daemon1", self.project / "daemon2"]
        wait_until(lambda: all(file.exists() for file in files), "the daemons to start")
        daemons = [one for one in self.processes() if "time.sleep(600)" in str(read_command(one))]
        assert len(daemons) == 2
        return daemons


def end_sandbox(how: str, box: Box) -> None:
    """End a sandbox by ``stop``, ``destroy``, or ``kill`` of its engine."""
    if how == "stop":
        box.stop()
    elif how == "destroy":
        box.provider.destroy(box.handle)
    else:
        box.engine().kill()
        box.wait_for(State.FAILED)


def find_processes(sandbox_id: UUID) -> Iterator[psutil.Process]:
    """Yield the living processes that name a sandbox in their command, environment or folder, and their descendants."""
    name = sandbox_id.hex
    children: dict[int, list[psutil.Process]] = {}
    queue = []
    for process in all_processes():
        with contextlib.suppress(psutil.Error, OSError):
            children.setdefault(process.ppid(), []).append(process)
            if name in read_mark(process):
                queue.append(process)
    seen = set()
    while queue:
        process = queue.pop()
        if process.pid not in seen:
            seen.add(process.pid)
            queue += children.get(process.pid, [])
            if is_alive(process):
                yield process


def read_mark(process: psutil.Process) -> str:
    """Return the command, the folder and the environment of a process as far as they can be read."""
    parts = []
    for read in (process.cmdline, process.cwd, process.environ):
        with contextlib.suppress(psutil.Error, OSError):
            parts.append(str(read()))
    return " ".join(parts)


def read_command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def list_alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that are still alive after at most two seconds."""
    deadline = time.monotonic() + 2
    while (alive := [one for one in processes if is_alive(one)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return alive


def read_namespaces(processes: list[psutil.Process]) -> set[str]:
    """Return the namespaces of processes, such as ``net:[4026532001]``, as far as they can be read."""
    found = set()
    for process in processes:
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{process.pid}/ns").iterdir():
                with contextlib.suppress(OSError):
                    found.add(re.sub("_for_children$", "", str(link.readlink())))
    return found
