"""The state of the agent engine in ``ENGINE_DIR``: whether it is ready, and how far its installation is.

``lib.engine_home`` installs it: it writes ``bin/agent-server`` near the end and ``installed.json`` last, so an
interrupted installation is recognized.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from django.conf import settings

from lib import engine_progress, processes
from lib.engine_progress import Progress

PACKAGE = "openhands-agent-server"
CONSTRAINTS: Path = settings.BASE_DIR / "engine" / "agent-server-constraints.txt"
STAMP, MARKER = "installed.json", "installing.json"
"""The stamp describes a complete installation.

The marker exists during an installation, and after an interrupted one.
"""


@dataclass(frozen=True)
class Status:
    """The state of ``ENGINE_DIR``.

    ``state`` is ``ready``, ``installing``, ``failed``, ``unfinished``, ``outdated`` or ``missing``. The state
    ``failed`` means that the last installation failed, and ``detail`` says why.
    """

    state: str
    version: str
    """The version of the installed engine, or the required version if none is installed."""
    folder: str
    detail: str
    """A sentence for operators. It may contain paths of this machine, except in the state ``installing``."""
    progress: Progress | None = None
    """The progress in the state ``installing``, if it is known."""

    @property
    def is_ready(self) -> bool:
        return self.state == "ready"

    @property
    def is_installing(self) -> bool:
        return self.state == "installing"


def required_versions() -> dict[str, str]:
    """Return a dict from package to required version, read from the constraints file."""
    pins = re.findall(
        r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;]+)", CONSTRAINTS.read_text(), re.MULTILINE
    )
    return {name.lower(): version for name, version in pins}


def status() -> Status:
    """Return the state of ``ENGINE_DIR``. The call is fast enough for every start of a sandbox and every page."""
    folder = settings.ENGINE_DIR
    # Look at the locks first: an installation that ends after this line leaves an engine that is ready.
    is_installing = processes.is_locked(lock_path(folder)) or processes.is_locked(
        _plan_path(folder)
    )
    found = inspect(folder)
    if found.is_ready:
        return found
    if is_installing:
        progress = engine_progress.read_progress(folder)
        words = f": {progress}." if progress and str(progress) else "."
        detail = f"The agent engine is being installed{words}"
        return replace(found, state="installing", detail=detail, progress=progress)
    if failure := engine_progress.read_failure(folder, fingerprint()):
        return replace(found, state="failed", detail=failure)
    return found


def plan_installation() -> IO[str] | None:
    """Let ``status`` report that the engine is being installed, until the returned file is closed.

    Use it where another process will call ``install`` in a moment. Return None if such a plan exists already, or if
    the folder of the engine cannot be created.
    """
    folder = settings.ENGINE_DIR
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        plan = processes.acquire_lock(_plan_path(folder))
    except OSError:
        return None  # the installation itself reports the fault
    if plan and not processes.is_locked(lock_path(folder)):
        # An earlier installation that was killed left its progress.
        engine_progress.forget(folder)
    return plan


def inspect(folder: Path) -> Status:
    """Return the state of a folder without regard to locks and earlier failures."""
    required = required_versions()[PACKAGE]

    def result(state: str, detail: str, version: str = required) -> Status:
        return Status(state, version, str(folder), detail)

    if not _names(folder):
        return result("missing", f"The agent engine is not installed in {folder}.")
    installed = _installed_version(folder)
    if (
        (folder / MARKER).exists()
        or not installed
        or not os.access(folder / "bin" / "agent-server", os.X_OK)
    ):
        return result(
            "unfinished", f"The installation of the agent engine in {folder} was not completed."
        )
    stamp = _read_json(folder / STAMP)
    # An engine without a stamp was not installed by this server, for example by an image. Only its version counts.
    if installed != required or (stamp and stamp["constraints"] != fingerprint()):
        return result(
            "outdated",
            f"{folder} contains engine {installed}, but this server needs version {required} with the packages of "
            "its constraints file.",
            installed,
        )
    # Scripts of a virtual environment contain its absolute path.
    if stamp and stamp["folder"] != str(folder):
        return result(
            "outdated",
            f"{folder} was moved after the engine was installed, so it must be installed again.",
            installed,
        )
    return result("ready", f"Agent engine {required} in {folder}.")


def lock_path(folder: Path) -> Path:
    """Return the file whose lock the installing process holds."""
    return folder.parent / f"{folder.name}.lock"


def _plan_path(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.planned.lock"


def log_path(folder: Path) -> Path:
    """Return the file with the output of the last installation."""
    return folder.parent / f"{folder.name}.log"


def _installed_version(folder: Path) -> str:
    stem = PACKAGE.replace("-", "_")
    folders = list(folder.glob(f"lib/python3*/site-packages/{stem}-*.dist-info"))
    return folders[0].name.removesuffix(".dist-info").rpartition("-")[2] if folders else ""


def fingerprint() -> str:
    """Return the hash of the constraints file."""
    return hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - unlike Path.iterdir, it is not interrupted by a removal
    except FileNotFoundError:
        return []


def _read_json(path: Path) -> dict[str, str]:
    try:
        content: dict[str, str] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content
