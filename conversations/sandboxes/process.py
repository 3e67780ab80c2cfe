"""Sandboxes that are plain processes of this machine: for development and tests, they isolate nothing.

Each has a folder under ``SANDBOX_DIR`` with its data, and beside the data ``run.json`` (the handle of the
newest run), ``stopped`` (the run that was ended on purpose) and ``exit.json`` (how a run ended). Whatever the
agent started carries ``OH_SANDBOX_ID`` in its environment, which is how it is found when it must end.
"""

import contextlib
import errno
import fcntl
import json
import os
import pwd
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import psutil
from django.conf import settings

from conversations.sandboxes.provider import (
    Handle,
    Observed,
    SandboxImpossible,
    SandboxNotYet,
    SandboxSpec,
    SandboxUnavailable,
    State,
)
from lib import engine_home
from lib.processes import signal_name

MODULE = "openhands.agent_server"
PROBE_SECONDS = 1.0
LOG_MAX_BYTES, LOG_TAIL_BYTES = 20 * 1024 * 1024, 256 * 1024
NEEDED_MEGABYTES = 100
PORTS = range(20_000, 32_000)
"""Below the ranges from which systems take the ports of outgoing connections."""
SOCKET_PATH_MAX = 103
"""Bytes of a Unix socket's path on macOS; Linux has four more."""
GIT_CONFIG = """\
[user]
    name = Agent
    email = agent@localhost
[init]
    defaultBranch = main
"""
_FOLDERS = ("project", "home", "conversations", "bash_events", "worktrees")
_MATTERS = re.compile(
    r"error|exception|refused|killed|in use|no space|denied|no such", re.IGNORECASE
)
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x1f\x7f]")


class ProcessProvider:
    """One engine process per sandbox, on a port of the loopback interface."""

    def start(self, spec: SandboxSpec) -> Handle:
        return self._start(spec, settings.SANDBOX_DIR / spec.sandbox_id.hex)

    def resume(self, spec: SandboxSpec, handle: Handle) -> Handle:
        folder = _folder(handle)
        if not folder or not (folder / "project").is_dir():
            raise SandboxImpossible("The data of this sandbox is gone.")
        return self._start(spec, folder)

    def find(self, sandbox_id: UUID) -> Handle:
        return _read(settings.SANDBOX_DIR / sandbox_id.hex / "run.json")

    def inspect(self, handle: Handle) -> Observed:
        folder = _folder(handle)
        if not folder or not (folder / "run.json").exists():
            return Observed(State.MISSING, detail="The folder of this sandbox is gone.")
        _trim_log(folder / "engine.log")
        workspace = str(folder / "project")
        process = _alive(handle)
        if not process:
            state, detail = _ending(folder, handle["run"])
            return Observed(state, workspace=workspace, detail=detail)
        base_url = f"http://127.0.0.1:{handle['port']}"
        is_ready = _listens(process, handle["port"]) and _probe(base_url)
        return Observed(State.RUNNING if is_ready else State.STARTING, base_url, workspace)

    def stop(self, handle: Handle, *, grace_seconds: float) -> None:
        if folder := _folder(handle):
            with _lock(folder):
                if folder.exists():
                    self._end(folder, handle, grace_seconds)

    def destroy(self, handle: Handle) -> None:
        folder = _folder(handle)
        if not folder:
            return
        with _lock(folder) as lock:
            self._end(folder, handle, 0)
            trash = folder.with_name(f"{folder.name}.removed")
            with contextlib.suppress(FileNotFoundError):
                folder.rename(trash)  # so that nobody sees half a sandbox
            for path in (trash, folder, Path(_tmux_folder(folder))):
                _remove(path)
            lock.unlink(missing_ok=True)

    def copy_workspace(self, source: Handle, target: Handle) -> bool:
        """Copy a sandbox's project into another's, over what is there; False where there is none.

        Links stay links; sockets and pipes are left out.
        """
        here, there = _folder(source), _folder(target)
        if not here or not there or not (here / "project").is_dir():
            return False
        with contextlib.suppress(shutil.Error):
            shutil.copytree(here / "project", there / "project", symlinks=True, dirs_exist_ok=True)
        return True

    def _start(self, spec: SandboxSpec, folder: Path) -> Handle:
        if not settings.ALLOW_PROCESS_SANDBOX:
            raise SandboxImpossible(
                "Sandboxes that are plain processes isolate nothing and are not allowed here. Choose another "
                "SANDBOX_PROVIDER, or set ALLOW_PROCESS_SANDBOX=true on a machine of your own."
            )
        if not (found := engine_home.status()).is_ready:
            if found.state == "installing":
                raise SandboxNotYet(
                    "The agent engine is being installed, once, for about a minute."
                )
            raise SandboxImpossible(f"{found.detail} Run `manage.py install_engine`.")
        try:
            with _lock(folder):
                earlier = _read(folder / "run.json")
                stopped = _read(folder / "stopped").get("run")
                if earlier and earlier["run"] != stopped and _alive(earlier):
                    return earlier
                _make_folders(folder)
                self._end(folder, earlier, 0)
                return _launch(spec, folder)
        except OSError as error:
            raise _explained(error, folder) from error

    def _end(self, folder: Path, handle: Handle, grace_seconds: float) -> None:
        """End the engine, then all that it left. The caller holds the folder's lock."""
        runs = [run for run in (_read(folder / "run.json"), handle) if run]
        for run in runs[:1]:
            with contextlib.suppress(FileNotFoundError):
                _write(folder / "stopped", {"run": run["run"]})
        engines = [process for run in runs if (process := _alive(run))]
        members = _members(folder.name, engines)
        deadline = time.monotonic() + grace_seconds
        if grace_seconds:
            _signal(engines, signal.SIGTERM)
        while time.monotonic() < deadline and any(_alive(run) for run in runs):
            time.sleep(0.05)
        _kill_tmux(_tmux_folder(folder))
        for _ in range(20):
            members = {process for process in members if _runs(process)} | _members(folder.name, [])
            if not members:
                return
            _signal(members, signal.SIGKILL)
            time.sleep(0.05)
        raise SandboxUnavailable(f"{len(members)} processes of this sandbox do not end.")


# --- Starting --------------------------------------------------------------------


def _launch(spec: SandboxSpec, folder: Path) -> Handle:
    free = shutil.disk_usage(folder).free // 1_000_000
    if free < NEEDED_MEGABYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    tmux, run, port = _tmux_folder(folder), secrets.token_hex(8), _free_port()
    _own_folder(Path(tmux))
    for name in ("exit.json", "stopped"):
        (folder / name).unlink(missing_ok=True)
    log = folder / "engine.log"
    _trim_log(log, keep=True)
    # By the interpreter and not by bin/agent-server: the first line of a script holds a path that may be
    # too long for the system. -P keeps files of the project from hiding the engine's modules.
    command = [str(settings.ENGINE_DIR / "bin" / "python"), "-P", "-m", MODULE]
    with open(log, "ab", opener=_private) as output:
        child = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env=_environment(spec, folder, tmux=tmux, run=run),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        created = psutil.Process(child.pid).create_time()
    except psutil.NoSuchProcess:
        created = 0.0
    handle = {
        "sandbox": spec.sandbox_id.hex,
        "run": run,
        "pid": child.pid,
        "created": created,
        "port": port,
        "dir": str(folder),
        "tmux": tmux,
    }
    _write(folder / "run.json", handle)
    threading.Thread(
        target=_reap, args=(child, folder, run), name=f"reap-{run}", daemon=True
    ).start()
    return handle


def _reap(child: "subprocess.Popen[bytes]", folder: Path, run: str) -> None:
    """Take in the child's status when it ends: no zombie stays, and every process learns how it ended."""
    status = child.wait()
    with contextlib.suppress(OSError):
        _write(folder / "exit.json", {"run": run, "status": status})


def _environment(spec: SandboxSpec, folder: Path, *, tmux: str, run: str) -> dict[str, str]:
    """Made from nothing: no secret, proxy or setting of this server reaches the agent."""
    home = folder / "home"
    return {
        "OH_SANDBOX_ID": spec.sandbox_id.hex,
        "OH_SANDBOX_RUN": run,
        "OH_SESSION_API_KEYS_0": spec.session_key,
        "OH_SECRET_KEY": spec.secret_key,
        "OH_CONVERSATIONS_PATH": str(folder / "conversations"),
        "OH_BASH_EVENTS_DIR": str(folder / "bash_events"),
        "OH_WORKSPACE_PATH": str(folder / "project"),
        "OH_CONVERSATION_WORKTREE_ROOT": str(folder / "worktrees"),
        "OH_LEASE_TTL_SECONDS": "0",  # a lease would hide the conversation after a crash
        "OH_CONVERSATION_IDLE_TTL_SECONDS_IS_NONE": "1",  # eviction breaks pending confirmations
        "OH_ENABLE_VSCODE": "0",
        "HOME": str(home),
        "TMUX_TMPDIR": tmux,
        "TZ": "UTC",  # the engine's timestamps are naive local time
        "LANG": "C.UTF-8",
        "PATH": _search_path(),
        "SHELL": shutil.which("bash") or "/bin/sh",
        "USER": _user(),
        "LOGNAME": _user(),
        "TERM": "xterm-256color",
        "GIT_TERMINAL_PROMPT": "0",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else fetched from the internet
        "LOG_JSON": "1",
        "PYTHONUNBUFFERED": "1",
        "OPENHANDS_SUPPRESS_BANNER": "1",
        "ANONYMIZED_TELEMETRY": "false",
        "DO_NOT_TRACK": "1",
    }


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run us as a number without a name
        return str(os.getuid())


def _search_path() -> str:
    """This process's search path without our own environment, and where system tools are."""
    ours = {str(Path(sys.prefix) / "bin"), str(Path(sys.executable).parent)}
    theirs = [place for place in os.environ.get("PATH", "").split(os.pathsep) if place]
    standard = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"]
    return os.pathsep.join(dict.fromkeys(p for p in (*theirs, *standard) if p not in ours))


def _free_port() -> int:
    """A port that nobody listens on. The engine cannot say which it took, so one is chosen for it.

    Where somebody takes it before the engine does, the engine ends, ``inspect`` says so, and starting
    again chooses another.
    """
    for port in random.sample(PORTS, 50):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise SandboxUnavailable("No free port was found on 127.0.0.1 for the engine.")


def _make_folders(folder: Path) -> None:
    for place in (folder.parent, folder, *(folder / name for name in _FOLDERS)):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    config = folder / "home" / ".gitconfig"
    if not config.exists():
        config.write_text(GIT_CONFIG)


def _tmux_folder(folder: Path) -> str:
    """Where the sandbox's terminals have their sockets: always the same, and short enough for a socket."""
    inside = folder / "tmux"
    longest = f"{os.path.realpath(inside)}/tmux-{os.getuid()}/openhands-{'0' * 32}"
    if len(os.fsencode(longest)) <= SOCKET_PATH_MAX:
        return str(inside)
    return f"/tmp/oh-{folder.name}"  # noqa: S108  (its owner and mode are checked)


def _own_folder(path: Path) -> None:
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()  # in /tmp somebody may have put a link or a folder there before us
    if path.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise SandboxUnavailable(
            f"{path} belongs to somebody else. Set SANDBOX_DIR to a shorter path."
        )


def _explained(error: OSError, folder: Path) -> SandboxUnavailable:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SandboxUnavailable(
            f"The disk of {folder.parent} is full. Free some space, or set SANDBOX_DIR."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return SandboxUnavailable(
            f"{error.filename or folder} cannot be written. Correct it or set SANDBOX_DIR."
        )
    if error.errno in (errno.EAGAIN, errno.ENOMEM):
        return SandboxUnavailable(
            "This machine has no memory or processes left for another sandbox."
        )
    return SandboxUnavailable(f"A sandbox cannot be started: {error}.")


# --- Looking ---------------------------------------------------------------------


def _alive(handle: Handle) -> psutil.Process | None:
    """The engine of a run. A pid alone is no identity: it may be another process's by now."""
    try:
        process = psutil.Process(handle["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        try:
            environment, command = process.environ(), process.cmdline()
        except (psutil.AccessDenied, OSError):
            environment, command = {}, []
        if environment and command:
            is_ours = environment.get("OH_SANDBOX_RUN") == handle["run"]
            return process if is_ours and MODULE in command else None
        # Not ours to read, or in the middle of an exec, when nothing is told. The start time is second best,
        # for it is told by a clock that may be set.
        return process if abs(process.create_time() - handle["created"]) < 2 else None
    except (psutil.Error, KeyError):
        return None


def _listens(process: psutil.Process, port: int) -> bool:
    """Whether it is this process that listens: another one may have taken the port before it."""
    try:
        sockets = process.net_connections("tcp")
        return any(s.laddr.port == port for s in sockets if s.status == psutil.CONN_LISTEN)
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False


def _probe(base_url: str) -> bool:
    try:
        with httpx2.stream(
            "GET", f"{base_url}/ready", timeout=PROBE_SECONDS, trust_env=False
        ) as answer:
            return answer.status_code == 200
    except httpx2.RequestError:
        return False


def _ending(folder: Path, run: str) -> tuple[State, str]:
    if _read(folder / "stopped").get("run") == run:
        return State.STOPPED, ""
    if _read(folder / "run.json").get("run") != run:
        return State.STOPPED, "It was started again since."
    status = _exit_status(folder, run)
    if status is None:
        how = "The engine ended"
    elif status < 0:
        how = f"The engine was killed by {signal_name(-status)}"
        if status == -signal.SIGKILL:
            how += " (the system does that when memory runs out)"
    else:
        how = f"The engine ended with status {status}"
    line = _last_words(folder / "engine.log")
    return State.FAILED, f"{how}: {line}" if line and status != -signal.SIGKILL else f"{how}."


def _exit_status(folder: Path, run: str) -> int | None:
    """How a run ended, where the process that started it lived to see it."""
    for _ in range(10):
        found = _read(folder / "exit.json")
        if found.get("run") == run:
            status = found.get("status")
            return status if isinstance(status, int) else None
        time.sleep(0.03)  # the process is a zombie, its parent about to write this
    return None


def _last_words(log: Path) -> str:
    """The last line of the log that tells of trouble, else the last line."""
    lines = [line for raw in _tail(log).splitlines() if (line := _message(raw))]
    telling = [line for line in lines[-40:] if _MATTERS.search(line)]
    return (telling or lines or [""])[-1][:300]


def _message(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace").strip()
    with contextlib.suppress(ValueError, RecursionError):
        fields = json.loads(text)
        if isinstance(fields, dict):
            text = str(fields.get("message") or fields.get("msg") or "")
    return _CONTROL.sub(" ", text).strip()


def _tail(log: Path) -> bytes:
    try:
        with log.open("rb") as file:
            file.seek(-min(LOG_TAIL_BYTES, file.seek(0, os.SEEK_END)), os.SEEK_END)
            return file.read()
    except OSError:
        return b""


def _trim_log(log: Path, *, keep: bool = False) -> None:
    """Cut a log that has grown to its tail; ``keep``: also where it is not large yet, as at a start.

    The engine appends (O_APPEND), so it goes on at the new end.
    """
    with contextlib.suppress(OSError):
        size = log.stat().st_size
        if size > (LOG_TAIL_BYTES if keep else LOG_MAX_BYTES):
            tail = _tail(log)
            with log.open("r+b") as file:
                file.truncate(0)
                file.write(tail)


# --- Ending ----------------------------------------------------------------------


def _members(name: str, engines: Iterable[psutil.Process]) -> set[psutil.Process]:
    """All processes of a sandbox: its engines, who carries its mark, who shares their session, and all children."""
    roots = {process.pid for process in engines}
    found: dict[int, psutil.Process] = {}
    children: dict[int, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            children.setdefault(process.ppid(), []).append(process)
            if process.pid in roots or _is_marked(process, name) or os.getsid(process.pid) in roots:
                found[process.pid] = process
    queue = list(found)
    while queue:
        for child in children.get(queue.pop(), []):
            if child.pid not in found:
                found[child.pid] = child
                queue.append(child.pid)
    found.pop(os.getpid(), None)
    return {process for process in found.values() if _runs(process)}


def _is_marked(process: psutil.Process, name: str) -> bool:
    try:
        return process.environ().get("OH_SANDBOX_ID") == name
    except (psutil.Error, OSError):
        return False


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _signal(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _kill_tmux(folder: str) -> None:
    """Terminals are daemons that outlive the engine; a killed one leaves its socket."""
    tmux = shutil.which("tmux")
    for path in Path(folder).glob("tmux-*/*"):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if path.is_socket():
                if tmux:
                    command = [tmux, "-S", str(path), "kill-server"]
                    subprocess.run(command, env={}, capture_output=True, timeout=5, check=False)
                path.unlink()


def _remove(path: Path) -> None:
    """Remove a folder, also one with folders that forbid it and with files that come while we are at it."""
    for _ in range(5):
        shutil.rmtree(path, ignore_errors=True)
        if not os.path.lexists(path):
            return
        for parent, names, _files in os.walk(path):
            for place in (Path(parent), *(Path(parent, name) for name in names)):
                if not place.is_symlink():
                    with contextlib.suppress(OSError):
                        place.chmod(0o700)
        time.sleep(0.05)
    raise SandboxUnavailable(f"{path} cannot be removed.")


# --- Files -----------------------------------------------------------------------


def _folder(handle: Handle) -> Path | None:
    """The sandbox's folder; only a path that ends in the sandbox's own id, for it may come to be removed."""
    name, place = handle.get("sandbox"), handle.get("dir")
    if (
        not isinstance(name, str)
        or not re.fullmatch(r"[0-9a-f]{32}", name)
        or not isinstance(place, str)
    ):
        return None
    folder = Path(place)
    return folder if folder.is_absolute() and folder.name == name else None


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[Path]:
    """One process at a time for one sandbox; let go by the system when its holder dies."""
    path = folder.parent / ".locks" / folder.name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        with open(path, "a", opener=_private) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever held it before may have removed it with the sandbox: then it locks nothing.
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                    yield path
                    return


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _write(path: Path, value: dict[str, Any]) -> None:
    partial = path.with_name(f"{path.name}.{threading.get_ident()}.partial")
    partial.write_text(json.dumps(value))
    partial.replace(path)
