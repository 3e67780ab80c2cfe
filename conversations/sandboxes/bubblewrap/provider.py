"""The bubblewrap provider: each sandbox has Linux namespaces of its own, without root and without a service.

A sandbox's folder under ``SANDBOX_DIR`` contains its data and the files of its keeper (see ``keeper``). Every process
of the server on this machine finds the sandbox by them, so a sandbox survives the worker that started it.
"""

import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit
from uuid import UUID

import psutil
from django.conf import settings

from conversations.sandboxes.bubblewrap import copying, mounts, staging, support, system_files
from conversations.sandboxes.bubblewrap.description import MEGABYTE, describe_isolation
from conversations.sandboxes.bubblewrap.limits import read_process_state
from conversations.sandboxes.bubblewrap.open_network import find_obstacle
from conversations.sandboxes.egress.policy import Policy, Profile, write_policy
from conversations.sandboxes.egress.reader import read_decisions
from conversations.sandboxes.engine_environment import (
    FOLDERS,
    MODULE,
    build_engine_environment,
    check_engine,
    gateway_url_behind_proxy,
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
)
from conversations.sandboxes.provider import (
    DIAL_SECONDS,
    ENGINE_PORT,
    Handle,
    Isolation,
    Limits,
    Observed,
    SandboxImpossible,
    SandboxSpec,
    SandboxUnavailable,
    State,
    Usage,
)
from lib.json_files import open_private, read_json, write_json
from lib.processes import is_locked, signal_name

INNER_ENGINE_PORT = 31_900
"""The engine's port inside every sandbox, which programs under development rarely use."""
PROXY = "127.0.0.1:3128"
ROOT = "/workspace"
"""The path of a sandbox's folders inside the sandbox."""
CONFIG_FILE = "tmp/.engine.json"
"""The file with the engine's keys, in the sandbox's folder and at the root inside. It exists during a start only."""
PROBE_SECONDS = 1.0
_DATA = (*FOLDERS, "tmux", "tmp")


class BubblewrapProvider:
    """A provider that runs each sandbox in namespaces of its own, watched by a keeper process."""

    def start(self, spec: SandboxSpec) -> Handle:
        return self._start(spec, settings.SANDBOX_DIR / spec.sandbox_id.hex, root=ROOT)

    def resume(self, spec: SandboxSpec, handle: Handle) -> Handle:
        folder = get_existing_folder(handle)
        # A sandbox that the process provider started keeps its paths, because the engine's files contain them.
        return self._start(spec, folder, root=handle.get("root", str(folder)))

    def find(self, sandbox_id: UUID) -> Handle:
        return read_json(settings.SANDBOX_DIR / sandbox_id.hex / "run.json")

    def inspect(self, handle: Handle) -> Observed:
        folder = get_folder(handle)
        if not folder or not (folder / "run.json").exists():
            return Observed(State.MISSING, detail="This sandbox's files were deleted.")
        trim_log(folder / "engine.log")
        workspace = f"{handle.get('root', folder)}/project"
        if not _runs(folder, handle):
            state, detail = _describe_end(folder, handle["run"])
            return Observed(state, workspace=workspace, detail=detail)
        return Observed(State.RUNNING if self._is_ready(handle) else State.STARTING, workspace)

    def dial(self, handle: Handle, port: int = ENGINE_PORT) -> socket.socket:
        folder = get_folder(handle)
        if folder is None:
            raise ConnectionRefusedError("The sandbox's files were deleted.")
        link = socket.socket(socket.AF_UNIX)
        try:
            link.settimeout(DIAL_SECONDS)
            # The path of a socket may have 107 bytes at most, so it is named by the folder's descriptor.
            descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
            try:
                link.connect(f"/proc/self/fd/{descriptor}/in.sock")
            finally:
                os.close(descriptor)
            link.sendall(b"%d\n" % (port or INNER_ENGINE_PORT))
            if link.recv(3, socket.MSG_WAITALL) != b"OK\n":
                raise ConnectionRefusedError(
                    f"Nothing listens on port {port or INNER_ENGINE_PORT} in the sandbox."
                )
            link.settimeout(None)
        except TimeoutError as error:
            link.close()
            raise TimeoutError("The sandbox does not answer.") from error
        except OSError as error:
            link.close()
            if isinstance(error, ConnectionError):
                raise
            raise ConnectionRefusedError("The sandbox is not running.") from error
        return link

    def set_policy(self, handle: Handle, policy: Policy) -> None:
        folder = get_folder(handle)
        _check_profile(policy)
        if folder and folder.is_dir():
            write_policy(folder / "policy.json", policy)

    def explain_no_open_network(self) -> str:
        return explain_no_open_network()

    def read_decisions(self, handle: Handle, position: str) -> tuple[list[dict[str, Any]], str]:
        folder = get_folder(handle)
        return read_decisions(folder / "egress.log", position) if folder else ([], position)

    def copy_workspace(self, source: Handle, target: Handle) -> bool:
        """Copy the project folder of one sandbox into another one. Return False if the source has no project."""
        folders = get_folder(source), get_folder(target)
        if not folders[0] or not folders[1] or not (folders[0] / "project").is_dir():
            return False
        copying.copy_folder(folders[0] / "project", folders[1] / "project")
        return True

    def describe(self, handle: Handle | None = None) -> Isolation:
        machine = support.probe()
        limits, landlock_abi = _limits(), machine.landlock_abi
        folder = get_folder(handle) if handle else None
        # The settings may have changed since the sandbox was started.
        if handle and folder and _runs(folder, handle):
            run = read_json(folder / "keeper.json")
            landlock_abi = run.get("landlock", landlock_abi)
            limits = Limits(**run["limits"]) if "limits" in run else limits
        return describe_isolation(
            machine, limits=limits, landlock_abi=landlock_abi, has_own_uid=os.geteuid() == 0
        )

    def read_usage(self, handle: Handle) -> Usage | None:
        folder = get_folder(handle)
        if not folder or not _runs(folder, handle):
            return None
        measured = read_json(folder / "usage.json")
        at = measured.pop("at", None)
        return Usage(datetime.fromtimestamp(at, UTC), **measured) if at else None

    def gateway_url(self) -> str:
        return gateway_url_behind_proxy()

    def stop(self, handle: Handle, *, grace_seconds: float) -> None:
        if folder := get_folder(handle):
            with lock(folder):
                if folder.exists():
                    self._end(folder, grace_seconds)

    def destroy(self, handle: Handle) -> None:
        folder = get_folder(handle)
        if not folder:
            return
        with lock(folder) as lock_file:
            self._end(folder, 0)
            delete_folder(folder)
            lock_file.unlink(missing_ok=True)

    def _start(self, spec: SandboxSpec, folder: Path, *, root: str) -> Handle:
        machine = support.probe()
        if not machine.is_usable:
            raise SandboxImpossible(f"{machine.cause} {machine.remedy}")
        _check_profile(spec.policy)
        check_engine()
        try:
            with lock(folder):
                earlier = read_json(folder / "run.json")
                stopped = read_json(folder / "stopped").get("run")
                if earlier and earlier["run"] != stopped and _runs(folder, earlier):
                    return earlier
                if folder.exists():
                    self._end(folder, 0)
                uid = _make_folders(folder)
                check_space(folder)
                return _launch(spec, folder, root=root, uid=uid)
        except OSError as error:
            raise explain_error(error, folder) from error

    def _end(self, folder: Path, grace_seconds: float) -> None:
        """End the sandbox of a folder. The caller holds the folder's lock."""
        run = read_json(folder / "run.json")
        # Write `stopped` first, so that `inspect` reports the end of this run as a stop and not as a failure.
        if run:
            write_json(folder / "stopped", {"run": run["run"]})
        deadline = time.monotonic() + grace_seconds
        if grace_seconds and is_locked(folder / "keeper.lock"):
            _signal(run, signal.SIGTERM)
        while time.monotonic() < deadline and is_locked(folder / "keeper.lock"):
            time.sleep(0.05)
        init = read_json(folder / "keeper.json")
        for _ in range(200):
            if is_locked(folder / "keeper.lock"):
                _signal(run, signal.SIGKILL)
            elif not _lives(init):
                with contextlib.suppress(OSError):  # a killed keeper left it
                    (folder / CONFIG_FILE).unlink()
                return
            time.sleep(0.05)
        raise SandboxUnavailable("The processes of this sandbox could not be ended. Try again.")

    def _is_ready(self, handle: Handle) -> bool:
        with contextlib.suppress(OSError), self.dial(handle) as link:
            link.settimeout(PROBE_SECONDS)
            link.sendall(b"GET /ready HTTP/1.0\r\nHost: engine\r\n\r\n")
            return b" 200 " in link.recv(64).split(b"\r\n")[0]
        return False


def explain_no_open_network() -> str:
    """Return why conversations cannot have the network profile ``open`` here and what to do, or an empty text."""
    if not settings.SANDBOX_ALLOW_OPEN_NETWORK:
        return "This server does not allow the open network. An administrator can set SANDBOX_ALLOW_OPEN_NETWORK=true."
    return find_obstacle(support.probe().pasta)


def _check_profile(policy: Policy) -> None:
    if policy.profile is Profile.OPEN and (reason := explain_no_open_network()):
        raise SandboxImpossible(f"{reason} Or choose another network profile.")


def _make_folders(folder: Path) -> int | None:
    """Create the folders of a sandbox. Return the user id that owns its data, or None if the server is not root."""
    for path in (folder.parent, folder):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    uid = None
    if os.geteuid() == 0:
        project = folder / "project"
        with _uid_lock(folder.parent):
            uid = project.stat().st_uid if project.exists() else 0
            if uid not in staging.find_uids():
                # The sandbox is new, or it ran as root or as the server's user before.
                uid = staging.choose_uid(folder.parent)
                # The owner of this folder reserves the user id, and is changed before its content.
                project.mkdir(mode=0o700, exist_ok=True)
                os.chown(project, uid, uid)
    remove(folder / "tmp")
    is_owned = read_json(folder / "owner.json").get("uid") == uid
    for name in _DATA:
        path = folder / name
        if not path.exists():
            path.mkdir(mode=0o700)
        if uid is not None and (not is_owned or path.stat().st_uid != uid):
            _change_owner(path, uid)
    if uid is not None and not is_owned:
        # Written last, so that the next start completes what this one was killed in.
        write_json(folder / "owner.json", {"uid": uid})
    return uid


@contextlib.contextmanager
def _uid_lock(sandboxes: Path) -> Iterator[None]:
    """Let one process at a time choose a user id, so that no two sandboxes get the same."""
    path = sandboxes / ".locks" / "uid"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _change_owner(path: Path, uid: int) -> None:
    """Give a folder and all below it to a user. Symbolic links are not followed."""
    if not path.exists():
        return
    os.lchown(path, uid, uid)
    for parent, names, files in os.walk(path):
        for name in (*names, *files):
            os.lchown(os.path.join(parent, name), uid, uid)  # noqa: PTH118 - names that are not UTF-8


def _launch(spec: SandboxSpec, folder: Path, *, root: str, uid: int | None) -> Handle:
    run = secrets.token_hex(8)
    for name in ("exit.json", "stopped", "keeper.json", "usage.json"):
        (folder / name).unlink(missing_ok=True)
    trim_log(folder / "engine.log", at_start=True)
    write_policy(folder / "policy.json", spec.policy)
    if uid is not None:
        # Programs that reopen /dev/stderr need the right to write to the log.
        (folder / "engine.log").touch(mode=0o600)
        os.chown(folder / "engine.log", uid, uid)
    lock_file = _lock_keeper(folder)
    request = _build_request(spec, folder, root=root, uid=uid, run=run)
    request["lock_fd"] = lock_file.fileno()
    with lock_file, open(folder / "keeper.log", "wb", opener=open_private) as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "conversations.sandboxes.bubblewrap.keeper", f"--run={run}"],
            cwd=settings.BASE_DIR,
            env={"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock_file.fileno(),),
        )
        handle = {
            "sandbox": spec.sandbox_id.hex,
            "run": run,
            "pid": child.pid,
            "dir": str(folder),
            "root": root,
        }
        try:
            write_json(folder / "run.json", handle)
        except OSError:
            # Nobody would find this keeper, which waits for its request. It holds the lock until it ends.
            child.kill()
            child.communicate()
            raise
        assert child.stdin
        with contextlib.suppress(BrokenPipeError), child.stdin as pipe:
            pipe.write(json.dumps(request).encode())
    # Collect the keeper's exit status, so that no zombie remains.
    threading.Thread(target=child.wait, name=f"reap-{run}", daemon=True).start()
    return handle


def _lock_keeper(folder: Path) -> IO[str]:
    """Lock the file that shows that the keeper lives. The keeper inherits the lock."""
    file = open(folder / "keeper.lock", "w", opener=open_private)  # noqa: SIM115 - returned
    for _ in range(100):
        # Another process may hold a shared lock for a moment, in order to see whether the keeper lives.
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        time.sleep(0.05)
    file.close()
    raise SandboxUnavailable("An earlier run of this sandbox has not ended yet. Try again.")


def _build_request(
    spec: SandboxSpec, folder: Path, *, root: str, uid: int | None, run: str
) -> dict[str, Any]:
    """Return the request for the keeper (``keeper.Request``) as JSON values. It contains the engine's keys."""
    python = str(settings.ENGINE_DIR / "bin" / "python")
    etc = folder / "etc"
    system_files.write_etc(
        etc, home=f"{root}/home", python=python, relay=f"{mounts.INSIDE_TARGET}/relay.py"
    )
    own = [
        mounts.Mount(
            str(folder / name),
            "/tmp" if name == "tmp" else f"{root}/{name}",  # noqa: S108 - inside the sandbox
            writable=True,
        )
        for name in _DATA
    ]
    plan = mounts.plan_mounts(
        folders=own,
        etc=etc,
        engine_dir=settings.ENGINE_DIR,
        read_only=settings.SANDBOX_READ_ONLY_PATHS,
        protected=(settings.DATA_DIR, settings.SANDBOX_DIR, settings.BASE_DIR),
    )
    environment = build_engine_environment(spec, root=root, run=run)
    environment |= system_files.proxy_variables(PROXY)
    environment |= {
        "OPENHANDS_AGENT_SERVER_CONFIG_PATH": f"/{CONFIG_FILE}",
        "TMUX_TMPDIR": f"{root}/tmux",
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
        "SHELL": "/bin/bash",
        "USER": system_files.USER,
        "LOGNAME": system_files.USER,
        "TMPDIR": "/tmp",  # noqa: S108
    }
    limits = asdict(_limits())
    limits["file_bytes"] = limits["disk_bytes"]
    inherited = {
        "processes": limits["processes"],
        "file_bytes": limits["file_bytes"],
        "open_files": 4_096,
        "core_bytes": 0,
    }
    command = [python, "-P", "-m", MODULE, "--host", "127.0.0.1", "--port", str(INNER_ENGINE_PORT)]
    command += [
        "--extra-python-path",
        mounts.INSIDE_TARGET,
        "--import-modules",
        "nondumpable,keyless",
    ]
    start = {
        "command": command,
        "environment": environment,
        "cwd": f"{root}/home",
        "config_path": environment["OPENHANDS_AGENT_SERVER_CONFIG_PATH"],
        "config": {"session_api_keys": [spec.session_key], "secret_key": spec.secret_key},
        "port": INNER_ENGINE_PORT,
        "old_gateway_port": _old_gateway_port() if root != ROOT else None,
        "landlock": support.probe().landlock_abi > 0,
        "read_only": plan.readable(),
        "writable": plan.writable(),
        "limits": {name: value for name, value in inherited.items() if value},
    }
    return {
        "run": run,
        "folder": str(folder),
        "bwrap": support.probe().bwrap,
        "pasta": support.probe().pasta if settings.SANDBOX_ALLOW_OPEN_NETWORK else "",
        "python": python,
        "uid": uid,
        "cgroup": support.probe().cgroup,
        "plan": asdict(plan),
        "limits": limits,
        "watched": [str(folder / name) for name in (*_DATA, "engine.log")],
        "start": start,
    }


def _old_gateway_port() -> int | None:
    """Return the port of this server if sandboxes without isolation reached it at a loopback address."""
    if gateway_url_behind_proxy() == settings.GATEWAY_URL:
        return None
    return urlsplit(settings.GATEWAY_URL).port or 80


def _limits() -> Limits:
    """Return the limits for new runs, from the settings."""
    return Limits(
        memory_bytes=settings.SANDBOX_MEMORY_MEGABYTES * MEGABYTE,
        processes=settings.SANDBOX_MAX_PROCESSES,
        disk_bytes=settings.SANDBOX_DISK_MEGABYTES * MEGABYTE,
    )


def _runs(folder: Path, handle: Handle) -> bool:
    """Return whether the keeper of this run lives."""
    is_newest = read_json(folder / "run.json").get("run") == handle.get("run")
    return is_newest and is_locked(folder / "keeper.lock")


def _signal(run: Handle, number: int) -> None:
    """Send a signal to a keeper. Check its command line, because the process id may belong to another process."""
    with contextlib.suppress(psutil.Error, KeyError):
        process = psutil.Process(run["pid"])
        if f"--run={run['run']}" in process.cmdline():
            process.send_signal(number)


def _lives(init: dict[str, Any]) -> bool:
    """Return whether the sandbox's process 1 still exists. It ends after all other processes of the sandbox.

    The time of its start is compared, because its process id may belong to another process by now, and because an
    ending process has no command line any more.
    """
    if not init.get("init"):
        return False
    started_at, state = read_process_state(init["init"])
    return started_at == init.get("init_started_at") and state != "Z"


def _describe_end(folder: Path, run: str) -> tuple[State, str]:
    """Return the state of a run whose keeper has ended, and the cause as a sentence."""
    if read_json(folder / "stopped").get("run") == run:
        return State.STOPPED, ""
    if read_json(folder / "run.json").get("run") != run:
        return State.STOPPED, "The sandbox was started again after this run."
    end = read_json(folder / "exit.json")
    if end.get("run") != run:
        cause = "The process that watches the sandbox ended, so the sandbox ended too"
        line = find_last_line(folder / "keeper.log")
        return State.FAILED, f"{cause}: {line}" if line else f"{cause}."
    if end.get("detail"):
        return State.FAILED, end["detail"]
    status = end.get("status")
    if status is None:
        line = find_last_line(folder / "engine.log") or find_last_line(folder / "keeper.log")
        return State.FAILED, f"The sandbox ended: {line}" if line else "The sandbox ended."
    if status < 0:
        cause = f"The engine was killed by {signal_name(-status)}"
        if status == -signal.SIGKILL:
            return State.FAILED, f"{cause} (usually because the machine ran out of memory)."
    else:
        cause = f"The engine ended with status {status}"
    line = find_last_line(folder / "engine.log")
    return State.FAILED, f"{cause}: {line}" if line else f"{cause}."
