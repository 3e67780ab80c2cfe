"""Checks of this machine and of this process on it: the data folder, programs, the engine, sandboxes, model servers.

A running server sees its own PATH, limits and rights, which may differ from those of a terminal.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import psutil

from openhands_site.doctor.findings import Finding, failed, ok, warning

LOW_MEGABYTES, CRITICAL_MEGABYTES = 2_000, 300
"""Free space on the disk below which the check warns, and below which it fails."""
WITHOUT_ISOLATION = (
    "Until then agents cannot start. To run agents without isolation, set SANDBOX_PROVIDER=process and "
    "ALLOW_PROCESS_SANDBOX=true: every user who can start an agent can then read the server's keys and all data."
)


def python() -> Finding:
    """Check the version of the Python that runs this check."""
    version = sys.version.split()[0]
    if sys.version_info < (3, 11):  # noqa: UP036 - this line is for users of an older version
        return failed(f"Python {version} is too old.", "Install Python 3.11 or newer.")
    return ok(version)


def data_folder() -> Finding:
    """Check that the data folder exists and is writable."""
    from django.conf import settings

    folder: Path = settings.DATA_DIR
    if not folder.is_dir():
        return failed(
            f"{folder} does not exist.",
            "Create it with `make run`, or set DATA_DIR to another folder.",
        )
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        return failed(
            f"{folder} is not writable ({error.strerror}).",
            "Correct its owner, or set DATA_DIR to another folder.",
        )
    return ok(str(folder))


def space() -> Finding:
    """Check the free space of the data folder's disk."""
    from django.conf import settings

    from lib.disk import DiskState, data_disk

    folder: Path = settings.DATA_DIR
    while not folder.exists():
        folder = folder.parent
    free = psutil.disk_usage(str(folder)).free // 1_000_000
    disk = data_disk()
    if disk is not None and disk.state is DiskState.FULL:
        return failed(disk.sentence(), page="nodes")
    if free < CRITICAL_MEGABYTES:
        return failed(
            f"{free} MB free. PostgreSQL stops when the disk is full.",
            "Free some space.",
            page="nodes",
        )
    if disk is not None and disk.state is DiskState.LOW:
        return warning(disk.sentence(), page="nodes")
    if free < LOW_MEGABYTES:
        return warning(
            f"{free} MB free. A single sandbox may need more.", "Free some space.", page="nodes"
        )
    return ok(f"{free} MB free")


def open_files() -> Finding:
    """Raise the limit of open files of this process as a role does, and check it."""
    from lib import open_files as limits

    number = limits.raise_limit()
    if number < limits.ENOUGH:
        return warning(limits.describe_low(number))
    return ok(f"a process may have {number:,} files open")


def engine() -> Finding:
    """Check that the agent engine is installed in the required version."""
    from lib import engine_state

    status = engine_state.status()
    if status.is_ready:
        return ok(status.detail)
    if status.state == "installing":
        return warning(status.detail, ends_alone=True)
    return failed(
        f"{status.detail} Agents cannot start without it.",
        "Run `manage.py install_engine`.",
        command="install_engine",
    )


def git() -> Finding:
    """Check that Git is installed."""
    return _program(
        "git", "Without it, conversations cannot use repositories or show changed files"
    )


def tmux() -> Finding:
    """Check that tmux is installed."""
    return _program("tmux", "Without it, the terminals of agents lose their state more often")


def _program(name: str, loss: str) -> Finding:
    if path := shutil.which(name):
        return ok(path)
    return warning(f"not found. {loss}.", "Install it with the system's package manager.")


def sandbox() -> Finding:
    """Check that sandboxes can start, and how they are isolated."""
    from django.conf import settings

    from conversations.sandboxes.provider import get_provider

    name, page = settings.SANDBOX_PROVIDER, "settings-sandboxes"
    isolation = get_provider(name).describe()
    if isolation.cause and name == "process":
        return failed(
            "SANDBOX_PROVIDER is `process`, but ALLOW_PROCESS_SANDBOX is false, so agents cannot start.",
            "Set it to true only if you trust every user: agents then run with all rights of this system user.",
            page=page,
        )
    if isolation.cause:
        return failed(isolation.cause, f"{isolation.remedy} {WITHOUT_ISOLATION}", page=page)
    if name == "process":
        return warning(
            "agents are not isolated: they run with all rights of this system user.",
            "Give accounts only to people you trust.",
            page=page,
        )
    walls = ", ".join(wall.name.lower() for wall in isolation.walls if wall.in_force)
    detail = f"{isolation.word.lower()} by {name}: {walls}"
    missing = [wall.name.lower() for wall in isolation.walls if not wall.in_force]
    detail += f" (not in force: {', '.join(missing)})" if missing else ""
    return ok(detail) if isolation.is_isolated else warning(detail, page=page)


def model_servers() -> Finding:
    """Look for model servers on this machine. None of the findings is a problem."""
    from django.conf import settings

    from billing import services
    from billing.gateway import local_servers

    ports = local_servers.list_ports()
    if not ports:
        return ok("not looked for, because MODEL_SERVER_PORTS is none")
    found = local_servers.search(ports)
    if not found:
        return ok(f"none on this machine at the ports {', '.join(map(str, ports))}")
    uses = services.count_local_uses()
    parts = []
    for server in found:
        models = f"{len(server.models)} model{'' if len(server.models) == 1 else 's'}"
        parts.append(
            f"{server.name} at {server.address} with {models}, {_describe_uses(uses[server.port])}"
        )
    if any(uses[server.port] for server in found):
        return ok("; ".join(parts))
    offer = "Use one under Settings, Model."
    if settings.UPSTREAM_ALLOW_PRIVATE is False:
        offer = "They are not called, because UPSTREAM_ALLOW_PRIVATE is false."
    return ok(f"{'; '.join(parts)}.", offer, page="settings-model")


def _describe_uses(count: int) -> str:
    """Return in how many model settings of users and organizations a model server is set."""
    return f"set in {count} model setting{'' if count == 1 else 's'}" if count else "not used"
