"""The start of a sandbox's keeper: its folders and their owner, its lock, and the request that it gets."""

import contextlib
import fcntl
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from django.conf import settings

from conversations.sandboxes.bubblewrap import mounts, staging, support, system_files
from conversations.sandboxes.bubblewrap.description import MEGABYTE
from conversations.sandboxes.egress.policy import write_policy
from conversations.sandboxes.engine_environment import (
    FOLDERS,
    MODULE,
    build_engine_environment,
    gateway_url_behind_proxy,
)
from conversations.sandboxes.engine_log import trim_log
from conversations.sandboxes.folders import remove
from conversations.sandboxes.provider import (
    Handle,
    Limits,
    SandboxSpec,
    SandboxUnavailable,
)
from lib.json_files import open_private, read_json, write_json

INNER_ENGINE_PORT = 31_900
"""The engine's port inside every sandbox, which programs under development rarely use."""
PROXY = "127.0.0.1:3128"
ROOT = "/workspace"
"""The path of a sandbox's folders inside the sandbox."""
CONFIG_FILE = "tmp/.engine.json"
"""The file with the engine's keys, in the sandbox's folder and at the root inside. It exists during a start only."""
_DATA = (*FOLDERS, "tmux", "tmp")


def make_folders(folder: Path) -> int | None:
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


def launch(spec: SandboxSpec, folder: Path, *, root: str, uid: int | None) -> Handle:
    """Start the keeper of a new run and return the sandbox's handle.

    The caller holds the folder's lock. ``root`` is the path of the sandbox's folders inside, and ``uid`` the owner of
    its data if the server runs as root.
    """
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
    limits = asdict(read_limits())
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


def read_limits() -> Limits:
    """Return the limits for new runs, from the settings."""
    return Limits(
        memory_bytes=settings.SANDBOX_MEMORY_MEGABYTES * MEGABYTE,
        processes=settings.SANDBOX_MAX_PROCESSES,
        disk_bytes=settings.SANDBOX_DISK_MEGABYTES * MEGABYTE,
    )
