"""The roles of a quickstart: their commands, and the modules that they share with this process."""

import os
import sys
from functools import partial
from importlib import import_module

from lib import env
from openhands_site.operating.supervisor import ProcessRole

MODULES = (
    *("manage", "openhands_site.asgi", "openhands_site.urls", "openhands_site.realtime"),
    *("openhands_site.management.commands.run_web", "uvicorn.loops.auto", "uvicorn.lifespan.off"),
    "openhands_site.management.commands.run_worker",
    "conversations.management.commands.run_conversation_manager",
)
"""The modules that the roles need and Django's set-up does not import."""


def list_roles(fd: int, *, grpc_port: int | None, wants_engine: bool) -> list[ProcessRole]:
    """Return the roles. ``fd`` is the file descriptor of the listening socket, which ``web`` uses."""
    roles = [
        _role("web", "run_web", "--fd", str(fd), pass_fds=(fd,)),
        _role("worker", "run_worker", "--grace", "5"),
        _role("manager", "run_conversation_manager"),
    ]
    if grpc_port is not None:
        # The library of gRPC must not be loaded before a fork, so this role imports everything itself.
        roles.append(ProcessRole("grpc", _command("run_grpc", "--port", str(grpc_port))))
    if wants_engine:
        roles.append(_engine_role())
    return roles


def _engine_role() -> ProcessRole:
    """Return the role that installs the engine, without slowing down the server."""
    from lib.engine_state import plan_installation

    # Conversations that start before the installation begins wait for it too.
    plan = plan_installation()
    return ProcessRole(
        "engine",
        _command("install_engine"),
        once=True,
        waits=True,
        niceness=10,
        on_done=plan.close if plan else lambda: None,
    )


def _role(name: str, *arguments: str, pass_fds: tuple[int, ...] = ()) -> ProcessRole:
    run = partial(_run, arguments)
    return ProcessRole(name, _command(*arguments), run=run, pass_fds=pass_fds)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, str(env.BASE_DIR / "manage.py"), *arguments]


def import_modules() -> None:
    """Import what the roles need, once for all of them. Call it after Django's set-up."""
    from openhands_site import static_files

    # The ASGI application reads the list of static files when it is imported.
    static_files.prepare()
    for name in MODULES:
        import_module(name)
    # Load the URL configuration and its views.
    from django.urls import get_resolver
    from procrastinate.contrib.django import app

    _ = get_resolver().reverse_dict
    app.perform_import_paths()  # type: ignore[no-untyped-call]


def give_up_pool() -> None:
    """Use no connection pool in this process: its threads would make a fork unsafe."""
    from django.conf import settings

    global _pool  # noqa: PLW0603 - a fact about this process
    _pool = settings.DATABASES["default"]["OPTIONS"].pop("pool", None)


_pool: dict[str, int] | None = None


def _run(arguments: tuple[str, ...]) -> None:
    """Run a command in a forked process as ``manage.py`` runs it in a new one."""
    from django.conf import settings
    from django.db import connections

    sys.argv = [str(env.BASE_DIR / "manage.py"), *arguments]
    options = settings.DATABASES["default"]["OPTIONS"]
    options["application_name"] = os.environ["OH_ROLE"][:60]
    if _pool is not None:
        options["pool"] = _pool
    del connections["default"]  # the next use makes one with these options
    import_module("manage").main()
