"""The bubblewrap provider: each sandbox has Linux namespaces of its own, without root and without a service.

A sandbox's folder under ``SANDBOX_DIR`` contains its data and the files of its keeper (see ``keeper``). Every process
of the server on this machine finds the sandbox by them, so a sandbox survives the worker that started it.
"""

import contextlib
import os
import signal
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
from django.conf import settings

from conversations.sandboxes.bubblewrap import copying, support
from conversations.sandboxes.bubblewrap.description import describe_isolation
from conversations.sandboxes.bubblewrap.launching import (
    CONFIG_FILE,
    INNER_ENGINE_PORT,
    ROOT,
    launch,
    make_folders,
    read_limits,
)
from conversations.sandboxes.bubblewrap.limits import read_process_state
from conversations.sandboxes.bubblewrap.open_network import find_obstacle
from conversations.sandboxes.egress.policy import Policy, Profile, write_policy
from conversations.sandboxes.egress.reader import read_decisions
from conversations.sandboxes.engine_environment import (
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
    was_started_again,
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
from lib.json_files import read_json, write_json
from lib.processes import is_locked, signal_name

PROBE_SECONDS = 1.0


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
        limits, landlock_abi = read_limits(), machine.landlock_abi
        folder = get_folder(handle) if handle else None
        has_cgroup, has_open_network = bool(machine.cgroup), False
        # The settings may have changed since the sandbox was started.
        if handle and folder and _runs(folder, handle):
            run = read_json(folder / "keeper.json")
            landlock_abi = run.get("landlock", landlock_abi)
            limits = Limits(**run["limits"]) if "limits" in run else limits
            has_cgroup = bool(run.get("cgroup"))
            has_open_network = read_json(folder / "policy.json").get("profile") == Profile.OPEN
        return describe_isolation(
            machine,
            limits=limits,
            landlock_abi=landlock_abi,
            has_own_uid=os.geteuid() == 0,
            has_cgroup=has_cgroup,
            has_open_network=has_open_network,
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
                if folder.exists() and not was_started_again(folder, handle):
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
                uid = make_folders(folder)
                check_space(folder)
                return launch(spec, folder, root=root, uid=uid)
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
