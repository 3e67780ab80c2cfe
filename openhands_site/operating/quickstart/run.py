"""One run of ``quickstart``: the steps from the data folder to the line ``Ready``, and the end of all processes.

The order saves time on two cores: PostgreSQL and Redis start while this process imports Django, the settings and the
modules of the roles, and the roles are forks of this process (docs/adr/0022).
"""

import contextlib
import gc
import json
import os
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from setproctitle import getproctitle

from lib import open_files
from openhands_site.operating import embedded, sources, supervisor
from openhands_site.operating.embedded import CannotStart
from openhands_site.operating.quickstart import data_folder, migrating, ports, ready, roles
from openhands_site.operating.quickstart.environment import Environment, is_set

CHECK_SECONDS = 0.3
"""Seconds between two attempts to start a service again."""
WATCH_SECONDS = 60.0
"""Seconds between two checks of the running processes. The end of one is noticed at once, by a signal."""
TURN_SECONDS = 0.05
"""Seconds between two checks of the roles until the server is ready."""


@dataclass
class Quickstart:
    """One run of the server, from the preparation of the data folder to the end of the last process."""

    host: str
    port: int
    data_dir: Path | None
    admin_email: str
    is_json: bool
    wants_engine: bool
    grpc_port: int | None = None
    services: embedded.Embedded | None = field(default=None, init=False)
    exposes_machine: bool = field(default=False, init=False)
    """Whether agents start without tested isolation from this machine."""
    loaded: str = field(default="", init=False)
    """The fingerprint of the files that were loaded."""
    began: float = field(default_factory=time.monotonic, init=False)

    def run(self) -> None:
        """Start the server, wait for a signal, and stop everything. Raise ``CannotStart`` if a step fails."""
        self.console = supervisor.Console(sys.stderr if self.is_json else sys.stdout)
        getproctitle()  # makes titles of child processes possible; needs the environment as it was at the start
        # The roles and services inherit the limit, and each role warns in its own log.
        open_files.raise_limit()
        with contextlib.ExitStack() as stack:
            gc.disable()  # until the roles have started: the imports make 200,000 objects that stay
            stack.callback(gc.enable)
            self.environment = Environment(self.data_dir)
            self.folder = self.environment.folder
            stack.enter_context(embedded.explain_errors(self.folder))
            stack.enter_context(data_folder.hold(self.folder, self.console))
            listener = stack.enter_context(ports.listen(self.host, self.port))
            if self.grpc_port is not None:
                ports.check_grpc(self.grpc_port)
            self.environment.prepare(self.host, self.port, self.console)
            stack.callback(self._stop_services)
            self._begin_services()
            self.environment.write()
            self._load_settings()
            self._finish_services()
            self._migrate()
            self._describe_sandboxes()
            link = self._create_administrator()
            self._supervise(listener, link)

    # --- Preparations -----------------------------------------------------------

    def _begin_services(self) -> None:
        """Begin to start PostgreSQL and Redis, unless the environment names servers."""
        self.needed = [name for name in ("DATABASE_URL", "REDIS_URL") if not is_set(name)]
        if not self.needed:
            return
        self.services = embedded.begin(self.folder)
        for note in self.services.notes:
            self.console.step("Note", note)
        urls = {
            "DATABASE_URL": self.services.database_url,
            "REDIS_URL": self.services.redis_url,
        }
        self.environment.own |= {name: urls[name] for name in self.needed}

    def _load_settings(self) -> None:
        import django
        from django.conf import settings
        from django.core.exceptions import ImproperlyConfigured

        os.environ.setdefault("LOG_FORMAT", "text")
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "openhands_site.settings")
        try:
            django.setup()
        except ImproperlyConfigured as error:
            raise CannotStart(str(error)) from error
        roles.give_up_pool()
        self.environment.save_given()
        settings.STATIC_ROOT.mkdir(exist_ok=True)  # WhiteNoise warns if this folder is missing

    def _finish_services(self) -> None:
        """Wait for PostgreSQL and Redis. Raise ``CannotStart`` if one of them does not respond."""
        from lib.reachability import Unreachable, check_database, check_redis

        if self.services is not None:
            self.services.finish()
        for check, variable, program in (
            (check_database, "DATABASE_URL", "PostgreSQL"),
            (check_redis, "REDIS_URL", "Redis"),
        ):
            if variable in self.needed:
                self.console.step(program, "started")
                continue
            try:
                check()
            except Unreachable as error:
                raise CannotStart(
                    f"The {program} server of {variable} cannot be reached: {error} Correct {variable}, or unset it to "
                    f"start a {program} server in the data folder."
                ) from error
            self.console.step(program, f"using {variable}")

    def _stop_services(self) -> None:
        if self.services is not None:
            self.services.stop()
            self.services = None

    def _migrate(self) -> None:
        """Bring the tables up to date, and import the modules of the roles meanwhile."""
        began = time.monotonic()
        with migrating.in_background():
            roles.import_modules()
            self.loaded = sources.fingerprint()
        self.console.step("Tables", f"up to date ({time.monotonic() - began:.1f} s)")

    def _describe_sandboxes(self) -> None:
        """Print the isolation of agents. If this machine cannot isolate them, the server runs but agents do not."""
        from django.conf import settings

        from conversations import services as conversations
        from lib import url_guard

        isolation = conversations.describe_isolation()
        self.exposes_machine = not isolation.is_isolated and not isolation.cause
        if isolation.cause:
            detail = f"agents cannot start. {isolation.cause} {isolation.remedy}"
        else:
            words = {"process": "not isolated: agents run as plain processes with all your rights"}
            by_provider = f"{isolation.word.lower()} by {settings.SANDBOX_PROVIDER}"
            detail = words.get(settings.SANDBOX_PROVIDER, by_provider)
        self.console.step("Sandboxes", detail)
        if sentence := url_guard.explain_single_user():
            self.console.step("Private hosts", sentence)

    def _create_administrator(self) -> str:
        """Return the URL of a one-time setup link if no administrator exists, else an empty string.

        With ``--admin-email`` and ``OH_ADMIN_PASSWORD``, create the administrator instead.
        """
        from accounts import services as accounts
        from lib.problems import Problem

        if accounts.has_administrator():
            return ""
        password = os.environ.pop("OH_ADMIN_PASSWORD", "")
        if self.admin_email and password:
            try:
                accounts.create_user(
                    email=self.admin_email, password=password, is_staff=True, is_superuser=True
                )
            except Problem as problem:
                raise CannotStart(
                    f"The administrator {self.admin_email} cannot be created: {problem}"
                ) from problem
            self.console.step("Administrator", f"created {self.admin_email}")
            return ""
        return self.environment.public_url + accounts.create_setup_link(email=self.admin_email)

    # --- Running ----------------------------------------------------------------

    def _supervise(self, listener: socket.socket, link: str) -> None:
        from django.db import connections

        connections.close_all()  # a fork must not share a connection
        # The roles do not need the administrator's password.
        environment = {k: v for k, v in os.environ.items() if k != "OH_ADMIN_PASSWORD"}
        runner = supervisor.Supervisor(
            roles.list_roles(
                listener.fileno(), grpc_port=self.grpc_port, wants_engine=self.wants_engine
            ),
            environment=environment,
            say=self.console.role,
            record=self.folder / "running.json",
            is_current=lambda: sources.fingerprint() == self.loaded,
        )
        runner.watch_signals()
        is_ready, pause = False, TURN_SECONDS
        try:
            while True:
                runner.turn(pause)
                gc.enable()
                if runner.stop_requested:
                    break
                is_complete = self._restart_services()
                if not is_ready and self._is_ready(runner):
                    is_ready = True
                    self._print_ready(runner, link)
                if is_ready:
                    pause = WATCH_SECONDS if is_complete else CHECK_SECONDS
        finally:
            self.console.say("\nStopping …")
            self._stop(runner)

    def _restart_services(self) -> bool:
        """Start the services that have stopped. Return whether all of them run."""
        if self.services is None:
            return True
        try:
            for name in self.services.restart_stopped():
                self.console.role("services", f"{name} stopped unexpectedly and was restarted")
        except CannotStart as error:
            self.console.role("services", str(error))
            time.sleep(1)
            return False
        return True

    def _is_ready(self, runner: supervisor.Supervisor) -> bool:
        return ready.is_ready(runner, host=self.host, port=self.port, grpc_port=self.grpc_port)

    def _print_ready(self, runner: supervisor.Supervisor, link: str) -> None:
        from django.conf import settings

        seconds = round(time.monotonic() - self.began, 1)
        warning = ""
        if self.exposes_machine and self.host not in ("127.0.0.1", "localhost", "::1"):
            warning = (
                "Warning: other machines may reach this server, and its agents are not isolated: they may have all "
                "your rights on this machine."
            )
        url = self.environment.public_url
        ready.tell(
            self.console, url=url, link=link, folder=self.folder, warning=warning, seconds=seconds
        )
        runner.release()
        if self.is_json:
            report: dict[str, Any] = {
                "event": "ready",
                "url": url,
                "setup_url": link or None,
                "seconds": seconds,
                "data_dir": str(self.folder),
                "engine_dir": str(settings.ENGINE_DIR),
                "pids": {role.name: role.process.pid for role in runner.roles if role.process},
            }
            sys.stdout.write(f"{json.dumps(report)}\n")
            sys.stdout.flush()

    def _stop(self, runner: supervisor.Supervisor) -> None:
        runner.stop()
        self._stop_sandboxes()
        self._stop_services()
        runner.end_descendants()
        self.console.say(f"Stopped. The data is in {self.folder}.")

    def _stop_sandboxes(self) -> None:
        from conversations import services as conversations

        try:
            conversations.stop_all_sandboxes()
        except Exception as error:  # noqa: BLE001 - the services must be stopped after any error
            self.console.role(
                "services", f"Stopping the sandboxes failed: {error}. They are killed instead."
            )
