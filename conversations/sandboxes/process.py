"""The process provider: sandboxes as plain processes of this machine, without isolation, for development and tests.

Each sandbox has a folder under ``SANDBOX_DIR`` with its data and three files: ``run.json`` (the handle of the newest
run), ``stopped`` (the id of the run that was stopped on purpose) and ``exit.json`` (the exit status of a run). Every
process that the agent starts inherits the environment variable ``OH_SANDBOX_ID``, by which the provider finds the
process when the sandbox ends.
"""

import contextlib
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import psutil
from django.conf import settings

from conversations.sandboxes.egress.policy import Policy
from conversations.sandboxes.engine_environment import (
    FOLDERS,
    MODULE,
    build_engine_environment,
    check_engine,
)
from conversations.sandboxes.engine_log import find_last_line, trim_log
from conversations.sandboxes.folders import (
    check_space,
    delete_folder,
    explain_error,
    get_existing_folder,
    get_folder,
    lock,
    remove,
    was_started_again,
)
from conversations.sandboxes.listeners import listens, still_listens
from conversations.sandboxes.members import end_tmux, find_members, is_running, send_signal
from conversations.sandboxes.provider import (
    DIAL_SECONDS,
    ENGINE_PORT,
    Handle,
    Isolation,
    Observed,
    SandboxImpossible,
    SandboxSpec,
    SandboxUnavailable,
    State,
    Usage,
    Wall,
)
from lib import open_files
from lib.json_files import open_private, read_json, write_json
from lib.processes import signal_name

PROBE_SECONDS = 1.0
PORTS = range(20_000, 32_000)
"""The ports for engines, below the ranges from which operating systems take ports for outgoing connections."""
SOCKET_PATH_MAX = 103
"""The longest path of a Unix socket in bytes, on macOS; Linux allows four bytes more."""
GIT_CONFIG = """\
[user]
    name = Agent
    email = agent@localhost
[init]
    defaultBranch = main
"""


NOT_ALLOWED = (
    "Process sandboxes do not isolate the agent from this machine, so they are disabled on this server.",
    "Choose another SANDBOX_PROVIDER, or set ALLOW_PROCESS_SANDBOX=true on a machine that only you use.",
)


def _do_nothing(engine: psutil.Process) -> None:
    """Do nothing after the start of an engine."""


@dataclass(frozen=True, slots=True)
class Confinement:
    """The parts of a start in which providers of processes differ.

    ``prefix`` are the words in front of the engine's command, ``environment`` are more variables for the engine, and
    ``on_started`` is called with the engine's process.
    """

    prefix: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    on_started: Callable[[psutil.Process], None] = _do_nothing


class ProcessProvider:
    """A provider that runs one engine process for each sandbox, on a port of the loopback interface."""

    def start(self, spec: SandboxSpec) -> Handle:
        return self._start(spec, settings.SANDBOX_DIR / spec.sandbox_id.hex)

    def resume(self, spec: SandboxSpec, handle: Handle) -> Handle:
        folder = get_existing_folder(handle)
        return self._start(spec, folder)

    def find(self, sandbox_id: UUID) -> Handle:
        return read_json(settings.SANDBOX_DIR / sandbox_id.hex / "run.json")

    def inspect(self, handle: Handle) -> Observed:
        folder = get_folder(handle)
        if not folder or not (folder / "run.json").exists():
            return Observed(State.MISSING, detail="This sandbox's files were deleted.")
        trim_log(folder / "engine.log")
        workspace = str(folder / "project")
        process = _find_engine(handle)
        if not process:
            state, detail = _describe_end(folder, handle["run"])
            return Observed(state, workspace=workspace, detail=detail)
        is_ready = listens(process, handle["port"]) and _probe(handle["port"])
        return Observed(State.RUNNING if is_ready else State.STARTING, workspace)

    def dial(self, handle: Handle, port: int = ENGINE_PORT) -> socket.socket:
        # These sandboxes share the ports of this machine, so never connect to a port that another program uses.
        if not _owns_port(handle, port):
            raise ConnectionRefusedError(
                f"The sandbox does not run, or nothing in it listens on port {port or 'of the engine'}."
            )
        connection = socket.create_connection(("127.0.0.1", port or handle["port"]), DIAL_SECONDS)
        connection.settimeout(None)
        return connection

    def gateway_url(self) -> str:
        url: str = settings.GATEWAY_URL
        return url

    def describe(self, handle: Handle | None = None) -> Isolation:
        cause, remedy = ("", "") if settings.ALLOW_PROCESS_SANDBOX else NOT_ALLOWED
        return Isolation(
            "Not isolated",
            "The agent runs as a plain process of the server’s system user. It can read and change everything that "
            "this user can, including the server’s keys and all other conversations.",
            is_isolated=False,
            walls=(
                Wall("Files", False, "All files that the server’s system user can read."),
                Wall("Processes", False, "All processes of the server’s system user."),
                Wall("Network", False, "The whole network of this machine."),
                Wall("Limits", False, "Memory, processes and disk are not limited."),
            ),
            cause=cause,
            remedy=remedy,
        )

    def read_usage(self, handle: Handle) -> Usage | None:
        """Return None: these sandboxes are not measured."""
        return None

    def stop(self, handle: Handle, *, grace_seconds: float) -> None:
        if folder := get_folder(handle):
            with lock(folder):
                if folder.exists() and not was_started_again(folder, handle):
                    self._end(folder, handle, grace_seconds)

    def destroy(self, handle: Handle) -> None:
        folder = get_folder(handle)
        if not folder:
            return
        with lock(folder) as lock_file:
            self._end(folder, handle, 0)
            delete_folder(folder)
            remove(Path(find_tmux_folder(folder)))
            lock_file.unlink(missing_ok=True)

    def set_policy(self, handle: Handle, policy: Policy) -> None:
        """Do nothing: these sandboxes share the network of this machine."""

    def explain_no_open_network(self) -> str:
        return "Network profiles have no effect on sandboxes without isolation. Choose another SANDBOX_PROVIDER."

    def read_decisions(self, handle: Handle, position: str) -> tuple[list[dict[str, Any]], str]:
        """Return no decisions: these sandboxes share the network of this machine."""
        return [], position

    def copy_workspace(self, source: Handle, target: Handle) -> bool:
        """Copy the project folder of one sandbox into another sandbox. Return False if the source has no project.

        Symbolic links stay links. Sockets and pipes are skipped.
        """
        source_folder, target_folder = get_folder(source), get_folder(target)
        if not source_folder or not target_folder or not (source_folder / "project").is_dir():
            return False
        with contextlib.suppress(shutil.Error):
            shutil.copytree(
                source_folder / "project",
                target_folder / "project",
                symlinks=True,
                dirs_exist_ok=True,
            )
        return True

    def _start(self, spec: SandboxSpec, folder: Path) -> Handle:
        isolation = self.describe()
        if isolation.cause:
            raise SandboxImpossible(f"{isolation.cause} {isolation.remedy}")
        check_engine()
        try:
            with lock(folder):
                earlier = read_json(folder / "run.json")
                stopped = read_json(folder / "stopped").get("run")
                if earlier and earlier["run"] != stopped and _find_engine(earlier):
                    return earlier
                _make_folders(folder)
                self._end(folder, earlier, 0)
                run = secrets.token_hex(8)
                port = find_free_port()
                confinement = self.confine(spec, folder, run=run, port=port)
                return _launch(spec, folder, confinement, run=run, port=port)
        except OSError as error:
            raise explain_error(error, folder) from error

    def confine(self, spec: SandboxSpec, folder: Path, *, run: str, port: int) -> Confinement:
        """Prepare a start of the engine on a port, and return what limits it. The caller holds the folder's lock."""
        return Confinement()

    def _end(self, folder: Path, handle: Handle, grace_seconds: float) -> None:
        """End the engine, then all other processes of the sandbox. The caller holds the folder's lock."""
        # The handle may belong to an older run than the newest run in the file.
        runs = [run for run in (read_json(folder / "run.json"), handle) if run]
        # Write `stopped` first, so that `inspect` reports the end of this run as a stop and not as a failure.
        for run in runs[:1]:
            with contextlib.suppress(FileNotFoundError):
                write_json(folder / "stopped", {"run": run["run"]})
        engines = [process for run in runs if (process := _find_engine(run))]
        # Collect the processes before the engine ends, because its children are found through the engine.
        members = find_members(folder.name, engines)
        deadline = time.monotonic() + grace_seconds
        if grace_seconds:
            send_signal(engines, signal.SIGTERM)
        while time.monotonic() < deadline and any(_find_engine(run) for run in runs):
            time.sleep(0.05)
        end_tmux(find_tmux_folder(folder))
        # Repeat, because a process may start another process while it is being killed.
        for _ in range(20):
            members = {process for process in members if is_running(process)} | find_members(
                folder.name, []
            )
            if not members:
                return
            send_signal(members, signal.SIGKILL)
            time.sleep(0.05)
        raise SandboxUnavailable(
            f"{len(members)} processes of this sandbox could not be ended. Try again."
        )


# --- Starting --------------------------------------------------------------------


def _launch(
    spec: SandboxSpec, folder: Path, confinement: Confinement, *, run: str, port: int
) -> Handle:
    check_space(folder)
    tmux = find_tmux_folder(folder)
    _make_private_folder(Path(tmux))
    for name in ("exit.json", "stopped"):
        (folder / name).unlink(missing_ok=True)
    log = folder / "engine.log"
    trim_log(log, at_start=True)
    # Use the interpreter instead of the script bin/agent-server, whose first line contains a path that may be too long
    # for the system. With -P, files of the project cannot shadow the engine's modules.
    python = str(settings.ENGINE_DIR / "bin" / "python")
    command = [*confinement.prefix, python, "-P", "-m", MODULE]
    with open(log, "ab", opener=open_private) as output:
        child = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env=_environment(spec, folder, tmux=tmux, run=run) | confinement.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    open_files.limit_child(child.pid)
    created = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(child.pid)
        created = process.create_time()
        confinement.on_started(process)
    handle = {
        "sandbox": spec.sandbox_id.hex,
        "run": run,
        "pid": child.pid,
        "created": created,
        "port": port,
        "dir": str(folder),
        "tmux": tmux,
    }
    write_json(folder / "run.json", handle)
    threading.Thread(
        target=_reap, args=(child, folder, run), name=f"reap-{run}", daemon=True
    ).start()
    return handle


def _reap(child: "subprocess.Popen[bytes]", folder: Path, run: str) -> None:
    """Wait for the engine's end, so that no zombie remains, and store the exit status for all server processes."""
    status = child.wait()
    with contextlib.suppress(OSError):
        write_json(folder / "exit.json", {"run": run, "status": status})


def _environment(spec: SandboxSpec, folder: Path, *, tmux: str, run: str) -> dict[str, str]:
    """Return the environment variables of the engine."""
    return build_engine_environment(spec, root=str(folder), run=run) | {
        "OH_SESSION_API_KEYS_0": spec.session_key,
        "OH_SECRET_KEY": spec.secret_key,
        "TMUX_TMPDIR": tmux,
        "PATH": _search_path(),
        "SHELL": shutil.which("bash") or "/bin/sh",
        "USER": _user(),
        "LOGNAME": _user(),
    }


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may use a user id without a name
        return str(os.getuid())


def _search_path() -> str:
    """Return this process's search path without the server's virtual environment, and with the system's folders."""
    own = {str(Path(sys.prefix) / "bin"), str(Path(sys.executable).parent)}
    inherited = [path for path in os.environ.get("PATH", "").split(os.pathsep) if path]
    standard = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"]
    return os.pathsep.join(
        dict.fromkeys(path for path in (*inherited, *standard) if path not in own)
    )


def find_free_port() -> int:
    """Return a free port for the engine, which could not report a port that it chose itself.

    If another program takes the port first, the engine ends, ``inspect`` reports the failure, and the next start
    chooses another port.
    """
    for port in random.sample(PORTS, 50):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise SandboxUnavailable(
        f"No free port from {PORTS[0]} to {PORTS[-1]} was found on 127.0.0.1 for the engine. Try again."
    )


def _make_folders(folder: Path) -> None:
    for path in (folder.parent, folder, *(folder / name for name in FOLDERS)):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    config = folder / "home" / ".gitconfig"
    if not config.exists():
        config.write_text(GIT_CONFIG)


def find_tmux_folder(folder: Path) -> str:
    """Return the folder for the sockets of the agent's terminals, which is the same in every run.

    It is inside the sandbox's folder, or in /tmp if the path of a socket would be too long.
    """
    inside = folder / "tmux"
    longest = f"{os.path.realpath(inside)}/tmux-{os.getuid()}/openhands-{'0' * 32}"
    if len(os.fsencode(longest)) <= SOCKET_PATH_MAX:
        return str(inside)
    return f"/tmp/oh-{folder.name}"  # noqa: S108  (its owner and mode are checked)


def _make_private_folder(path: Path) -> None:
    path.mkdir(mode=0o700, exist_ok=True)
    # In /tmp, another user may have created a link or a folder of this name before us.
    status = path.lstat()
    if path.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise SandboxUnavailable(
            f"{path} exists but is not a private folder of the server's user. "
            "Remove it, or set SANDBOX_DIR to a shorter path."
        )


# --- Inspecting ------------------------------------------------------------------


def _find_engine(handle: Handle) -> psutil.Process | None:
    """Return the engine process of a run, or None if the engine is not running.

    The process id alone is not enough, because it may belong to another process by now.
    """
    try:
        process = psutil.Process(handle["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        try:
            environment, command = process.environ(), process.cmdline()
        except (psutil.AccessDenied, OSError):
            environment, command = {}, []
        if environment and command:
            is_same_run = environment.get("OH_SANDBOX_RUN") == handle["run"]
            return process if is_same_run and MODULE in command else None
        # The process cannot be read: it belongs to another user, or is in the middle of an exec. Compare its start time
        # instead, which is less reliable because the clock may have been changed.
        return process if abs(process.create_time() - handle["created"]) < 2 else None
    except (psutil.Error, KeyError):
        return None


def _owns_port(handle: Handle, port: int) -> bool:
    """Return whether a process of this run listens on the port, or the engine on its own if ``port`` is 0."""
    if not {"run", "port"} <= handle.keys():
        return False
    if port in (ENGINE_PORT, handle["port"]):
        return still_listens(handle["run"], handle["port"], lambda: _find_engine(handle))
    engine = _find_engine(handle)
    return engine is not None and any(
        listens(process, port) for process in find_members(handle["sandbox"], [engine])
    )


def _probe(port: int) -> bool:
    url = f"http://127.0.0.1:{port}/ready"
    try:
        with httpx2.stream("GET", url, timeout=PROBE_SECONDS, trust_env=False) as response:
            return response.status_code == 200
    except httpx2.RequestError:
        return False


def _describe_end(folder: Path, run: str) -> tuple[State, str]:
    if read_json(folder / "stopped").get("run") == run:
        return State.STOPPED, ""
    if read_json(folder / "run.json").get("run") != run:
        return State.STOPPED, "The sandbox was started again after this run."
    status = _exit_status(folder, run)
    if status is None:
        cause = "The engine ended"
    elif status < 0:
        cause = f"The engine was killed by {signal_name(-status)}"
        if status == -signal.SIGKILL:
            cause += " (usually because the machine ran out of memory)"
    else:
        cause = f"The engine ended with status {status}"
    line = find_last_line(folder / "engine.log")
    return State.FAILED, f"{cause}: {line}" if line and status != -signal.SIGKILL else f"{cause}."


def _exit_status(folder: Path, run: str) -> int | None:
    """Return the exit status of a run, or None if the server process that started the run ended first."""
    for _ in range(10):
        ending = read_json(folder / "exit.json")
        if ending.get("run") == run:
            status = ending.get("status")
            return status if isinstance(status, int) else None
        time.sleep(0.03)  # the engine may be a zombie whose parent is about to write the file
    return None
