"""The keeper of one sandbox: a process on the host that starts the sandbox, serves its proxy, and watches its limits.

A worker starts it with ``python -m conversations.sandboxes.bubblewrap.keeper`` and writes a ``Request`` as JSON to its
standard input. The keeper then lives as long as its sandbox, independently of the worker. If the keeper is killed, the
kernel ends the sandbox. It uses neither Django nor the database. Its files in the sandbox's folder, which the sandbox
cannot see:

- ``keeper.lock``: locked as long as the keeper lives.
- ``keeper.json``: the process id of the sandbox's process 1, and what is in force.
- ``usage.json``: the newest measurement of memory, processes and disk.
- ``in.sock``: the socket for connections to ports of the sandbox.
- ``exit.json``: the end of the run: the engine's exit status, and the limit that was exceeded.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from conversations.sandboxes.bubblewrap import seccomp
from conversations.sandboxes.bubblewrap.cgroup import (
    create_cgroup,
    remove_cgroup,
    was_out_of_memory,
)
from conversations.sandboxes.bubblewrap.limits import (
    Limits,
    OverLimit,
    Usage,
    Watcher,
    over_memory,
    read_process_state,
)
from conversations.sandboxes.bubblewrap.mounts import (
    INSIDE_TARGET,
    Mount,
    Plan,
    build_arguments,
)
from conversations.sandboxes.bubblewrap.staging import enter_stage, plan_staging
from conversations.sandboxes.bubblewrap.system_files import GID, UID
from conversations.sandboxes.egress.log import DecisionLog
from conversations.sandboxes.egress.policy import PolicyFile
from conversations.sandboxes.egress.proxy import EgressProxy
from lib.json_files import open_private, write_json

HELLO_SECONDS = 30
"""How long the sandbox's process 1 may take to report that the walls are up."""
STOP_SECONDS = 60
"""How long a stop may take if nobody kills the keeper before."""
WATCH_SECONDS, GROWING_SECONDS, USAGE_SECONDS = 1.0, 0.2, 5.0
"""The seconds between two measurements, between two while the memory grows, and between two records of them."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a worker asks of a keeper. ``config`` contains the engine's keys."""

    run: str
    folder: Path
    bwrap: str
    python: str
    uid: int | None
    """The user id of the sandbox if the server runs as root."""
    cgroup: str
    """The server's cgroup, if a part of the cgroup v2 tree is delegated to it."""
    plan: Plan
    limits: Limits
    watched: list[Path]
    """The sandbox's folders on the host, whose files count."""
    lock_fd: int
    start: dict[str, Any]
    """The instructions for ``relay.py``."""


class Keeper:
    """The keeper of one run of a sandbox."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.control, self.inner_control = socket.socketpair()
        self.over: OverLimit | None = None
        self.engine_status: int | None = None
        self.is_stopping = asyncio.Event()
        self.cgroup: Path | None = None
        self.init_pid = 0
        self.facts: dict[str, Any] = {}

    async def run(self) -> None:
        """Run the sandbox from its start to its end, and record the end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.is_stopping.set)
        process = self.start_sandbox()
        ended = asyncio.create_task(asyncio.to_thread(process.wait))
        try:
            listener = await self.receive_hello(ended)
            if listener is not None:
                await self.serve(listener, process, ended)
        finally:
            if process.poll() is None:
                process.kill()
            await ended
            self.delete_keys()
            if self.cgroup:
                if self.over is None and was_out_of_memory(self.cgroup):
                    self.over = over_memory(self.request.limits.memory_bytes)
                remove_cgroup(self.cgroup)
            self.record_end(process.returncode)

    def start_sandbox(self) -> "subprocess.Popen[bytes]":
        """Start ``bwrap`` with the relay as process 1, and send the relay its instructions."""
        request = self.request
        door = self.open_door()
        info_reader, info_writer = os.pipe()
        filter_fd = os.memfd_create("seccomp")
        os.write(filter_fd, seccomp.build_filter())
        os.lseek(filter_fd, 0, os.SEEK_SET)
        sources: dict[str, str] = {}
        bwrap, enter = request.bwrap, None
        if request.uid is not None:
            mounts = (*request.plan.system, *request.plan.own)
            sources, bwrap = plan_staging([mount.source for mount in mounts], bwrap)
            enter = enter_stage(sources, request.uid)
        if request.cgroup:
            name = f"{request.folder.name}-{request.run}"
            self.cgroup = create_cgroup(Path(request.cgroup), name, request.limits)
        inner = self.inner_control
        command = [
            *(bwrap, "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent"),
            *("--as-pid-1", "--new-session", "--clearenv", "--cap-drop", "ALL"),
            *("--uid", str(UID), "--gid", str(GID), "--hostname", "sandbox"),
            *("--info-fd", str(info_writer), "--seccomp", str(filter_fd)),
            *build_arguments(request.plan, sources),
            *("--chdir", "/", "--", request.python, "-I", "-S", f"{INSIDE_TARGET}/relay.py"),
            *("init", str(inner.fileno()), str(door.fileno())),
        ]
        with open("engine.log", "ab", opener=open_private) as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={},
                pass_fds=(inner.fileno(), door.fileno(), info_writer, filter_fd),
                preexec_fn=partial(_enter, self.cgroup, enter),  # noqa: PLW1509 - there is one thread
            )
        for descriptor in (info_writer, filter_fd):
            os.close(descriptor)
        inner.close()
        door.close()
        with os.fdopen(info_reader, "rb") as info:
            self.init_pid = int(json.loads(info.read() or b"{}").get("child-pid", 0))
        with contextlib.suppress(BrokenPipeError):  # the sandbox may have ended already
            self.control.sendall(json.dumps(request.start).encode() + b"\n")
        started_at, _ = read_process_state(self.init_pid)
        self.facts = {
            "run": request.run,
            "init": self.init_pid,
            "init_started_at": started_at,
            "cgroup": str(self.cgroup or ""),
        }
        write_json(Path("keeper.json"), self.facts)
        return process

    def open_door(self) -> socket.socket:
        """Return the listening socket for connections to the sandbox's ports."""
        Path("in.sock").unlink(missing_ok=True)
        door = socket.socket(socket.AF_UNIX)
        door.bind("in.sock")
        door.listen(128)
        return door

    async def receive_hello(self, ended: "asyncio.Task[int]") -> socket.socket | None:
        """Wait for the relay's report. Return the listening socket of the proxy, or None if the sandbox ended."""
        self.control.settimeout(HELLO_SECONDS)
        receiving = asyncio.create_task(asyncio.to_thread(socket.recv_fds, self.control, 4096, 1))
        with contextlib.suppress(OSError):
            data, descriptors, _, _ = await receiving
            self.control.setblocking(False)
            if descriptors:
                hello = json.loads(data)
                write_json(Path("keeper.json"), self.facts | {"landlock": hello["landlock"]})
                return socket.socket(fileno=descriptors[0])
        return None

    async def serve(
        self,
        listener: socket.socket,
        process: "subprocess.Popen[bytes]",
        ended: "asyncio.Task[int]",
    ) -> None:
        """Serve the proxy and watch the limits until the sandbox ends or exceeds a limit, or a stop is requested."""
        asyncio.get_running_loop().add_reader(self.control, self.read_control)
        log = DecisionLog(Path("egress.log"))
        proxy = EgressProxy(PolicyFile(Path("policy.json")), log)
        await proxy.start(listener)
        watching = asyncio.create_task(self.watch())
        stopping = asyncio.create_task(self.is_stopping.wait())
        await asyncio.wait({ended, watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            process.kill()
        elif stopping.done():
            with contextlib.suppress(OSError):
                self.control.send(b"stop\n")
            await asyncio.wait({ended}, timeout=STOP_SECONDS)
        watching.cancel()
        await proxy.close()
        log.close()

    def read_control(self) -> None:
        """Read the relay's report of the engine's end."""
        try:
            data = self.control.recv(4096)
        except OSError:
            return
        if not data:
            asyncio.get_running_loop().remove_reader(self.control)
        with contextlib.suppress(ValueError, KeyError):
            self.engine_status = int(json.loads(data)["engine_ended"])

    async def watch(self) -> None:
        """Measure the sandbox again and again. Return when it exceeds a limit."""
        watcher = Watcher(self.init_pid, self.request.watched, self.request.limits)
        recorded_at, previous = 0.0, 0
        while True:
            try:
                usage = await asyncio.to_thread(watcher.check)
            except OverLimit as over:
                self.over = over
                return
            if time.monotonic() - recorded_at > USAGE_SECONDS:
                recorded_at = time.monotonic()
                self.record_usage(usage)
            is_growing = usage.memory_bytes > previous * 1.05
            previous = usage.memory_bytes
            await asyncio.sleep(GROWING_SECONDS if is_growing else WATCH_SECONDS)

    def record_usage(self, usage: Usage) -> None:
        with contextlib.suppress(OSError):  # a full disk must not end the sandbox
            write_json(
                Path("usage.json"),
                {
                    "at": time.time(),
                    "memory_bytes": usage.memory_bytes,
                    "processes": usage.processes,
                    "disk_bytes": usage.disk_bytes,
                },
            )

    def delete_keys(self) -> None:
        """Delete the file with the engine's keys, as the relay does unless the sandbox ends before."""
        with contextlib.suppress(OSError):
            # The sandbox's /tmp is the folder `tmp` here.
            Path(self.request.start["config_path"].removeprefix("/")).unlink()

    def record_end(self, bwrap_status: int) -> None:
        """Write how the run ended, for every process of the server."""
        end: dict[str, Any] = {"run": self.request.run, "status": self.engine_status}
        if self.engine_status is None:
            end["bwrap_status"] = bwrap_status
        if self.over:
            end |= {"reason": self.over.reason, "detail": str(self.over)}
        with contextlib.suppress(OSError):
            write_json(Path("exit.json"), end)


def _enter(cgroup: Path | None, enter: Callable[[], None] | None) -> None:
    """Move the child between fork and exec into its cgroup, then to its user."""
    if cgroup:
        with contextlib.suppress(OSError):
            (cgroup / "cgroup.procs").write_text("0")
    if enter:
        enter()


def parse_request(data: dict[str, Any]) -> Request:
    """Return the request in the JSON that a worker sent."""
    plan = data["plan"]
    return Request(
        run=data["run"],
        folder=Path(data["folder"]),
        bwrap=data["bwrap"],
        python=data["python"],
        uid=data["uid"],
        cgroup=data["cgroup"],
        plan=Plan(
            system=[Mount(**mount) for mount in plan["system"]],
            links=[(link[0], link[1]) for link in plan["links"]],
            hidden=plan["hidden"],
            own=[Mount(**mount) for mount in plan["own"]],
        ),
        limits=Limits(**data["limits"]),
        watched=[Path(path) for path in data["watched"]],
        lock_fd=data["lock_fd"],
        start=data["start"],
    )


def main() -> None:
    """Run the keeper for the request on standard input."""
    request = parse_request(json.load(sys.stdin))
    # The lock must end with this process, so no child may inherit it.
    os.set_inheritable(request.lock_fd, False)
    os.chdir(request.folder)
    os.umask(0o077)

    async def run() -> None:
        await Keeper(request).run()
        # A thread that still resolves a name must not delay the end, which other processes see by the lock.
        os._exit(0)

    asyncio.run(run())


if __name__ == "__main__":
    main()
