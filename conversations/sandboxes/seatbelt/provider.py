"""The seatbelt provider: sandboxes of macOS by ``sandbox-exec``. UNTESTED: it was never run on macOS.

It starts engines like the process provider, but under a profile (see ``profile``) of the same shape as bubblewrap's
walls: files outside of the sandbox's folders are denied, the system is read-only, and the network is the sandbox's
proxy (see ``proxy``). Memory, processes and disk are not limited.
"""

import os
import platform
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
from django.conf import settings

from conversations.sandboxes.bubblewrap.mounts import find_python_folders
from conversations.sandboxes.bubblewrap.system_files import proxy_variables
from conversations.sandboxes.egress.policy import Policy, write_policy
from conversations.sandboxes.egress.reader import read_decisions
from conversations.sandboxes.engine_environment import FOLDERS, gateway_url_behind_proxy
from conversations.sandboxes.folders import get_folder
from conversations.sandboxes.process import Confinement, ProcessProvider, find_tmux_folder
from conversations.sandboxes.provider import Handle, Isolation, SandboxSpec, Wall
from conversations.sandboxes.seatbelt.profile import build_profile
from lib.json_files import open_private

PROGRAM = "/usr/bin/sandbox-exec"
PROFILE_FILE = "seatbelt.sb"
MEANING = (
    "A macOS sandbox profile limits the agent to the files of this conversation, a read-only system and this server’s "
    "proxy. This provider was never tested on macOS, so do not rely on it."
)
NOT_MACOS = (
    "The sandbox provider seatbelt needs macOS.",
    "On Linux, use bubblewrap (SANDBOX_PROVIDER=bubblewrap).",
)
NO_PROGRAM = (
    f"{PROGRAM} does not exist on this machine.",
    "Use a macOS version that has it, or another sandbox provider (SANDBOX_PROVIDER).",
)


class SeatbeltProvider(ProcessProvider):
    """A provider that runs each engine under a sandbox profile of macOS. UNTESTED."""

    def describe(self, handle: Handle | None = None) -> Isolation:
        cause, remedy = _find_refusal()
        untested = "Untested."
        walls = (
            Wall("Files", True, f"Only the sandbox’s folders and a read-only system. {untested}"),
            Wall("Network", True, f"Only this server’s proxy, by the network profile. {untested}"),
            Wall(
                "Processes", True, f"Only the sandbox’s own processes can be signalled. {untested}"
            ),
            Wall("Limits", False, "Memory, processes and disk are not limited."),
        )
        return Isolation(
            "Untested isolation",
            MEANING,
            is_isolated=False,
            walls=() if cause else walls,
            cause=cause,
            remedy=remedy,
        )

    def gateway_url(self) -> str:
        return gateway_url_behind_proxy()

    def explain_no_open_network(self) -> str:
        return "The full network needs the provider bubblewrap, which runs on Linux."

    def set_policy(self, handle: Handle, policy: Policy) -> None:
        folder = get_folder(handle)
        if folder and folder.is_dir():
            write_policy(folder / "policy.json", policy)

    def read_decisions(self, handle: Handle, position: str) -> tuple[list[dict[str, Any]], str]:
        folder = get_folder(handle)
        return read_decisions(folder / "egress.log", position) if folder else ([], position)

    def confine(self, spec: SandboxSpec, folder: Path, *, run: str, port: int) -> Confinement:
        write_policy(folder / "policy.json", spec.policy)
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        proxy_port: int = listener.getsockname()[1]
        temporary = folder / "tmp"
        temporary.mkdir(mode=0o700, exist_ok=True)
        tmux = Path(find_tmux_folder(folder))
        writable = [*(folder / name for name in FOLDERS), temporary, tmux]
        readable: list[Path] = [
            settings.ENGINE_DIR,
            *find_python_folders(settings.ENGINE_DIR)[0],
            *settings.SANDBOX_READ_ONLY_PATHS,
        ]
        text = build_profile(
            writable=_real(writable),
            readable=_real(readable),
            sockets=tmux.resolve(),
            engine_port=port,
            proxy_port=proxy_port,
        )
        profile = folder / PROFILE_FILE
        with open(profile, "w", opener=open_private) as file:
            file.write(text)

        def start_proxy(engine: psutil.Process) -> None:
            with listener:
                _start_proxy(spec, folder, listener, engine, run=run)

        return Confinement(
            prefix=[PROGRAM, "-f", str(profile)],
            environment=proxy_variables(f"127.0.0.1:{proxy_port}") | {"TMPDIR": str(temporary)},
            on_started=start_proxy,
        )


def _find_refusal() -> tuple[str, str]:
    """Return why no sandbox can start on this machine and the remedy, or two empty texts."""
    if platform.system() != "Darwin":
        return NOT_MACOS
    return ("", "") if os.access(PROGRAM, os.X_OK) else NO_PROGRAM


def _real(paths: list[Path]) -> list[Path]:
    """Return paths without symbolic links, because macOS checks these."""
    return [path.resolve() for path in paths]


def _start_proxy(
    spec: SandboxSpec, folder: Path, listener: socket.socket, engine: psutil.Process, *, run: str
) -> None:
    """Start the proxy of a run. It has the sandbox's variables, so it ends with the sandbox's other processes."""
    descriptor = listener.fileno()
    command = [sys.executable, "-m", "conversations.sandboxes.seatbelt.proxy"]
    command += [str(descriptor), str(engine.pid), str(engine.create_time())]
    with open(folder / "proxy.log", "ab", opener=open_private) as log:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env={
                "PATH": os.defpath,
                "PYTHONPATH": str(settings.BASE_DIR),
                "OH_SANDBOX_ID": spec.sandbox_id.hex,
                "OH_SANDBOX_RUN": run,
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(descriptor,),
        )
    # Collect the proxy's exit status, so that no zombie remains.
    threading.Thread(target=child.wait, name=f"reap-proxy-{run}", daemon=True).start()
