"""The keeper of one sandbox: a process on the host that starts the sandbox, serves its proxy, and watches its limits.

A worker starts it with ``python -m conversations.sandboxes.bubblewrap.keeper`` and writes a ``Request`` as JSON to its
standard input. The keeper then lives as long as its sandbox, independently of the worker. If the keeper is killed, the
kernel ends the sandbox. It uses neither Django nor the database. Its files in the sandbox's folder, which the sandbox
cannot see:

- ``keeper.lock``: locked as long as the keeper lives.
- ``keeper.json``: the process id of the sandbox's process 1, and what is in force.
- ``usage.json``: the newest measurement of memory, processes and disk.
- ``in.sock``: the socket for connections to ports of the sandbox.
- ``exit.json``: the end of the run: the engine's exit status, and the limit that was exceeded or the failure of the
  open network.
"""

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
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
from conversations.sandboxes.bubblewrap.open_network import NetworkFailure, OpenNetwork
from conversations.sandboxes.bubblewrap.staging import enter_stage, plan_staging
from conversations.sandboxes.bubblewrap.system_files import GID, UID, write_network_files
from conversations.sandboxes.egress.log import DecisionLog
from conversations.sandboxes.egress.policy import Decision, PolicyFile, Profile, Reason
from conversations.sandboxes.egress.proxy import EgressProxy
from lib.json_files import open_private, write_json

HELLO_SECONDS = 30
"""How long the sandbox's process 1 may take to report that the walls are up."""
OOM_SCORE = "800"
"""How much rather the kernel ends a sandbox's processes than others (-1000 to 1000)."""
STOP_SECONDS = 60
"""How long a stop may take if nobody kills the keeper before."""
POLICY_SECONDS = 0.5
"""The seconds between two looks at whether the policy opens or closes the network."""
WATCH_SECONDS, GROWING_SECONDS, USAGE_SECONDS = 1.0, 0.2, 5.0
"""The seconds between two measurements, between two while the memory grows, and between two records of them."""


@dataclass(frozen=True, slots=True)
class Request:
    """The instructions of a worker for a keeper. ``start`` contains the engine's keys."""

    run: str
    folder: Path
    bwrap: str
    pasta: str
    """The path of ``pasta``, or empty if the server does not allow the open network."""
    python: str
    uid: int | None
    """The user id of the sandbox if the server runs as root."""
    cgroup: str
    """The server's cgroup, if a part of the cgroup v2 tree is delegated to it."""
    plan: Plan
    limits: Limits
    watched: list[Path]
    """The sandbox's folders and its engine's log on the host, whose bytes count."""
    lock_fd: int
    start: dict[str, Any]
    """The instructions for ``relay.py``."""


class Keeper:
    """The keeper of one run of a sandbox."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.control, self.inner_control = socket.socketpair()
        self.over: OverLimit | None = None
        self.network_failure = ""
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
        started_at, _ = read_process_state(self.init_pid)
        self.facts = {
            "run": request.run,
            "init": self.init_pid,
            "init_started_at": started_at,
            "cgroup": str(self.cgroup or ""),
            "limits": {
                "memory_bytes": request.limits.memory_bytes,
                "processes": request.limits.processes,
                "disk_bytes": request.limits.disk_bytes,
            },
        }
        # Write this file before the engine starts. A process that kills the keeper waits for the sandbox's end by it.
        write_json(Path("keeper.json"), self.facts)
        with contextlib.suppress(BrokenPipeError):  # the sandbox may have ended already
            self.control.sendall(json.dumps(request.start).encode() + b"\n")
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
        policy = PolicyFile(Path("policy.json"))
        proxy = EgressProxy(policy, log)
        await proxy.start(listener)
        watcher = Watcher(self.init_pid, self.request.watched, self.request.limits)
        watching = {
            asyncio.create_task(self.watch(measuring))
            for measuring in (self.measure_memory(watcher), self.measure_disk(watcher))
        }
        following = asyncio.create_task(self.follow_network(policy, log))
        stopping = asyncio.create_task(self.is_stopping.wait())
        await asyncio.wait(
            {ended, *watching, following, stopping}, return_when=asyncio.FIRST_COMPLETED
        )
        if self.over or following.done():
            process.kill()
        elif stopping.done():
            with contextlib.suppress(OSError):
                self.control.send(b"stop\n")
            await asyncio.wait({ended}, timeout=STOP_SECONDS)
        for task in (*watching, following):
            task.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await proxy.close()
        log.close()

    async def follow_network(self, policy: PolicyFile, log: DecisionLog) -> None:
        """Open and close the sandbox's network as the policy says. Return when the open network fails."""
        request = self.request
        network = OpenNetwork(request.pasta, self.init_pid, request.uid)
        write_files = partial(
            write_network_files,
            request.folder / "etc",
            python=request.python,
            relay=f"{INSIDE_TARGET}/relay.py",
        )
        try:
            while True:
                is_wanted = policy().profile is Profile.OPEN
                if is_wanted and not network.is_open:
                    await network.open()
                    write_files(is_open=True)
                    opened = Decision(True, Reason.OPEN)
                    log.record(opened, host="*", port=0, address="", protocol="pasta")
                elif not is_wanted and network.is_open:
                    await network.close()
                    write_files(is_open=False)
                await network.check()
                await asyncio.sleep(POLICY_SECONDS)
        except NetworkFailure as failure:
            self.network_failure = str(failure)
        except OSError as error:
            self.network_failure = f"The network profile could not be changed: {error.strerror}."
        finally:
            await network.close()

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

    async def watch(self, measuring: Coroutine[Any, Any, None]) -> None:
        """Measure the sandbox again and again. Return when it exceeds a limit or cannot be measured."""
        try:
            await measuring
        except OverLimit as over:
            self.over = over
        except OSError as error:
            self.over = OverLimit(
                "unmeasured",
                f"The sandbox's memory and disk could not be measured, so it was stopped ({error}). Its files are "
                "kept. Try again later.",
            )

    async def measure_memory(self, watcher: Watcher) -> None:
        recorded_at, previous = 0.0, 0
        while True:
            usage = await asyncio.to_thread(watcher.check)
            if time.monotonic() - recorded_at > USAGE_SECONDS:
                recorded_at = time.monotonic()
                self.record_usage(usage)
            is_growing = usage.memory_bytes > previous * 1.05
            previous = usage.memory_bytes
            await asyncio.sleep(GROWING_SECONDS if is_growing else WATCH_SECONDS)

    async def measure_disk(self, watcher: Watcher) -> None:
        while True:
            await asyncio.to_thread(watcher.check_disk)
            await asyncio.sleep(WATCH_SECONDS)

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
        elif self.network_failure:
            end |= {"reason": "network", "detail": self.network_failure}
        with contextlib.suppress(OSError):
            write_json(Path("exit.json"), end)


def _enter(cgroup: Path | None, enter: Callable[[], None] | None) -> None:
    """Move the child between fork and exec into its cgroup, then to its user."""
    # If the machine runs out of memory, the kernel must end a sandbox and not the server. Process 1 of the sandbox may
    # not write this itself, because it is not dumpable. The sandbox cannot lower it if the server has CAP_SYS_RESOURCE.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
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
        pasta=data["pasta"],
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
    # The proxy's connections and the counts of files need more descriptors than many systems allow by default.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    async def run() -> None:
        await Keeper(request).run()
        # A thread that still resolves a name must not delay the end, which other processes see by the lock.
        os._exit(0)

    asyncio.run(run())


if __name__ == "__main__":
    main()
