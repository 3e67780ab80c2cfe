"""The ``quickstart`` command: start PostgreSQL, Redis and every role of the server in one terminal.

``manage.py`` runs this command without loading the settings first, because the command creates the environment from
which the settings are read.
"""

import contextlib
import http.client
import ipaddress
import json
import os
import re
import secrets
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from django.core.management.base import BaseCommand, CommandParser

from lib import env, open_files, processes, url_guard
from lib.commands import port
from lib.reachability import Unreachable, check_database, check_redis
from openhands_site.operating import embedded, supervisor
from openhands_site.operating.embedded import CannotStart

REQUIRED_MEGABYTES = 300
KEYS = ("SECRET_KEY", "ENCRYPTION_KEYS", "TOKEN_PEPPERS")
KEPT = ("ENGINE_DIR", "OH_ENGINE_PYTHON", "AGENT_PYTHON", "SANDBOX_DIR", "OH_WEB_CLIENT_DIR")
"""Folders and programs that later starts use again unless their environment names others."""
NOT_SAVED = re.compile("KEY|SECRET|PASSWORD|PEPPER|TOKEN|^DATA_DIR$|^DATABASE_POOL_SIZE$")
"""Settings of the environment that are not written to ``server.env``: secrets, and what differs by command."""
CHECK_SECONDS = 0.3
"""Seconds between two checks of the services and, until the server is ready, of the roles."""


class Command(BaseCommand):
    help = (
        "Start the server and its services on this machine: PostgreSQL, Redis, database tables, the agent engine "
        "and all roles."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
        )
        parser.add_argument(
            "--port", type=port, default=8000, help="port to listen on (default: %(default)s)"
        )
        parser.add_argument(
            "--data-dir",
            type=Path,
            help="folder for all data (default: DATA_DIR, else `data` in the project)",
        )
        parser.add_argument(
            "--admin-email",
            default="",
            help="e-mail address of the first administrator; set OH_ADMIN_PASSWORD to create the account without "
            "a setup link",
        )
        parser.add_argument(
            "--grpc-port", type=port, help="also serve gRPC, on this port of the loopback address"
        )
        parser.add_argument(
            "--json",
            action="store_true",
            help="print a JSON object on standard output when the server is ready, and all else on standard error",
        )
        parser.add_argument(
            "--no-engine", action="store_true", help="do not install the agent engine"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        start = Quickstart(
            host=options["host"],
            port=options["port"],
            data_dir=options["data_dir"],
            admin_email=options["admin_email"],
            grpc_port=options["grpc_port"],
            is_json=options["json"],
            wants_engine=not options["no_engine"],
        )
        try:
            start.run()
        except CannotStart as refusal:
            sys.exit(f"\n{refusal}")
        except OSError as error:
            output = f"{error.strerror}: {error.filename}"
            sys.exit(f"\n{embedded.explain_error(output, start.folder)}")
        except KeyboardInterrupt:
            sys.exit("\nInterrupted during startup. All processes were stopped.")


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
    began: float = field(default_factory=time.monotonic, init=False)
    given: dict[str, str] = field(default_factory=dict, init=False)
    """The environment of this start, without the values of ``.env``, which every command reads itself."""

    def run(self) -> None:
        """Start the server, wait for a signal, and stop everything. Raise ``CannotStart`` if a step fails."""
        self.console = supervisor.Console(sys.stderr if self.is_json else sys.stdout)
        # The roles and services inherit the limit, and each role warns in its own log.
        open_files.raise_limit()
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._data_folder())
            listener = stack.enter_context(self._listen())
            self._check_grpc_port()
            self._prepare_environment()
            stack.callback(self._stop_services)
            self._start_services()
            self._write_environment()
            self._migrate()
            link = self._create_administrator()
            self._supervise(listener, link)

    # --- Preparations -----------------------------------------------------------

    @property
    def folder(self) -> Path:
        """The data folder: the option, else ``DATA_DIR``, else ``data`` in the project."""
        if self.data_dir is not None:
            return self.data_dir.expanduser().resolve()
        folder: Path = env.path("DATA_DIR", env.BASE_DIR / "data").resolve()
        return folder

    @contextlib.contextmanager
    def _data_folder(self) -> Iterator[None]:
        self.given = dict(os.environ)
        env.load_file(env.BASE_DIR / ".env")
        folder = self.folder
        with embedded.explain_errors(folder):
            embedded.make_private(folder)
            lock = processes.acquire_lock(folder / "quickstart.lock")
        if lock is None:
            raise embedded.AlreadyRunning(self._already_running_message())
        with lock:
            free = psutil.disk_usage(str(folder)).free // 1_000_000
            if free < REQUIRED_MEGABYTES:
                raise CannotStart(
                    f"The disk of {folder} has only {free} MB free, but the server needs {REQUIRED_MEGABYTES} MB "
                    "to start. Free some space, or choose a folder on another disk: make run "
                    "DATA_DIR=/path/to/folder."
                )
            self.console.step("Data folder", str(folder))
            if ended := supervisor.end_leftovers(folder / "running.json"):
                self.console.step("Cleanup", f"ended {ended} processes of an earlier run")
            yield

    def _already_running_message(self) -> str:
        with contextlib.suppress(OSError):
            pid = (self.folder / "quickstart.lock").read_text().strip()
            return (
                f"A server is already running with the data folder {self.folder} (process {pid}). Stop it with "
                f"Ctrl-C in its terminal or with `kill {pid}`, or start a second server with another folder and "
                "port: make run DATA_DIR=/other PORT=8001."
            )
        return f"A server is already running with the data folder {self.folder}."

    def _listen(self) -> socket.socket:
        """Open the server's port first, so that a port in use is reported before a database starts."""
        try:
            family = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0][0]
            listener = socket.create_server((self.host, self.port), family=family, backlog=2048)
        except (socket.gaierror, UnicodeError) as error:
            reason = getattr(error, "strerror", "it is not a host name")
            raise CannotStart(
                f"{self.host} is not an address of this machine ({reason}). Choose another address: "
                "make run HOST=127.0.0.1."
            ) from error
        except PermissionError as error:
            raise CannotStart(
                f"Port {self.port} is reserved for the system. Choose a port above 1023: make run PORT=8000."
            ) from error
        except OSError as error:
            if error.errno == 98 or "in use" in str(error):  # 98 is EADDRINUSE on Linux
                raise CannotStart(
                    f"Port {self.port} is in use{_describe_listener(self.port)}. Stop that program, or choose "
                    f"another port: make run PORT={self.port % 65_535 + 1}."
                ) from error
            raise CannotStart(
                f"Cannot listen on {self.host}:{self.port}: {error.strerror}."
            ) from error
        listener.set_inheritable(True)
        return listener

    def _check_grpc_port(self) -> None:
        if self.grpc_port is not None and self._grpc_listens():
            raise CannotStart(
                f"Port {self.grpc_port} is in use{_describe_listener(self.grpc_port)}. Choose another port for gRPC "
                "with --grpc-port."
            )

    def _prepare_environment(self) -> None:
        """Set ``self.own`` to values for the required settings. Use the keys that ``server.env`` contains again.

        ``_write_environment`` later drops the values that the environment already sets.
        """
        stored = _read_file(self.folder / "server.env")
        url = f"http://127.0.0.1:{self.port}"
        public = urlsplit(os.environ.get("PUBLIC_URL") or url)
        names = ["127.0.0.1", "localhost", *self._own_names(), public.hostname or ""]
        hosts = [
            f"[{name}]" if ":" in name else name for name in dict.fromkeys(filter(None, names))
        ]
        origins = [
            f"{public.scheme}://{public.netloc}",
            *(f"http://{h}:{self.port}" for h in hosts),
        ]
        self.own = {
            "SECRET_KEY": stored.get("SECRET_KEY") or secrets.token_urlsafe(48),
            "ENCRYPTION_KEYS": stored.get("ENCRYPTION_KEYS") or f"k1:{secrets.token_hex(32)}",
            "TOKEN_PEPPERS": stored.get("TOKEN_PEPPERS") or f"p1:{secrets.token_hex(32)}",
            "PUBLIC_URL": url,
            "GATEWAY_URL": url,
            "ALLOWED_HOSTS": ",".join(hosts),
            "ALLOWED_ORIGINS": ",".join(dict.fromkeys(origins)),
            "UPSTREAM_ALLOW_PRIVATE": "single-user",
            "ACCESS_LOG": "problems",
        }
        self.own |= {name: stored[name] for name in KEPT if name in stored}
        is_new = not any(name in stored for name in KEYS)
        if is_new and (self.folder / "postgresql").exists():
            self.console.step(
                "Keys",
                "server.env is missing, so new keys were created. Existing API keys and stored secrets cannot be "
                "used any more. To keep them, stop the server and restore server.env from a backup.",
            )
        elif is_new:
            self.console.step("Keys", f"created in {self.folder / 'server.env'}")
        os.environ["DATA_DIR"] = str(self.folder)

    def _own_names(self) -> list[str]:
        """Return the host names and addresses of this machine at which the server can be reached."""
        if self.host not in ("0.0.0.0", "::", ""):  # noqa: S104 - compared, not bound
            return [self.host]
        names = [socket.gethostname()]
        for addresses in psutil.net_if_addrs().values():
            for address in addresses:
                with contextlib.suppress(ValueError):
                    names.append(str(ipaddress.ip_address(address.address.partition("%")[0])))
        return names

    def _start_services(self) -> None:
        needs_database, needs_redis = not _is_set("DATABASE_URL"), not _is_set("REDIS_URL")
        if needs_database or needs_redis:
            self.services = embedded.start(self.folder)
            for note in self.services.notes:
                self.console.step("Note", note)
            if needs_database:
                self.own["DATABASE_URL"] = self.services.database_url
            if needs_redis:
                self.own["REDIS_URL"] = self.services.redis_url
        for name, variable, is_embedded in (
            ("PostgreSQL", "DATABASE_URL", needs_database),
            ("Redis", "REDIS_URL", needs_redis),
        ):
            self.console.step(name, "started" if is_embedded else f"using {variable}")

    def _stop_services(self) -> None:
        if self.services is not None:
            self.services.stop()
            self.services = None

    def _write_environment(self) -> None:
        """Set the values of ``self.own`` and write them to ``server.env`` for other commands."""
        self.own = {name: value for name, value in self.own.items() if not _is_set(name)}
        self._write_file({})
        os.environ.update(self.own)

    def _save_given(self) -> None:
        """Add the settings that the environment of this start sets to ``server.env``.

        Otherwise ``doctor`` and other commands would not find the database, the engine or the sandboxes of this server.
        The next start uses only those in ``KEPT`` again.
        """
        names = env.names_read() | {*KEPT}
        names |= {f"{name}_FILE" for name in names}
        given = {
            name: self.given[name]
            for name in sorted(names & self.given.keys())
            if self.given[name] and "\n" not in self.given[name] and not NOT_SAVED.search(name)
        }
        self._write_file(given)

    def _write_file(self, given: dict[str, str]) -> None:
        """Replace ``server.env`` atomically, so no command reads an incomplete file. Only its owner can read it."""
        path = self.folder / "server.env"
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        lines = [
            (
                "# Written by `manage.py quickstart`. Back up SECRET_KEY, ENCRYPTION_KEYS and TOKEN_PEPPERS: without "
                "them, stored secrets and API keys cannot be used."
            )
        ]
        lines += [f"{name}='{value}'" for name, value in (_keys_of(path) | self.own).items()]
        if given:
            lines.append("# From the environment of the last start:")
            lines += [f"{name}='{value}'" for name, value in given.items()]
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write("\n".join(lines) + "\n")
            # A power failure after the replacement must not leave an empty file.
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)

    def _migrate(self) -> None:
        import django
        from django.conf import settings
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import call_command

        from openhands_site.operating import tables

        # No connection pool in this process: its threads would make starting child processes unsafe.
        pool_size = os.environ.get("DATABASE_POOL_SIZE")
        os.environ["DATABASE_POOL_SIZE"] = "0"
        os.environ.setdefault("LOG_FORMAT", "text")
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "openhands_site.settings")
        try:
            django.setup()
        except ImproperlyConfigured as error:
            raise CannotStart(str(error)) from error
        finally:
            os.environ.pop("DATABASE_POOL_SIZE")
            if pool_size is not None:
                os.environ["DATABASE_POOL_SIZE"] = pool_size
        self._save_given()
        self._check_services()
        began = time.monotonic()
        try:
            tables.check_tables()
        except tables.OldTables as error:
            raise CannotStart(str(error)) from error
        call_command("migrate", interactive=False, verbosity=0)
        settings.STATIC_ROOT.mkdir(exist_ok=True)  # WhiteNoise warns if this folder is missing
        self.console.step("Tables", f"up to date ({time.monotonic() - began:.1f} s)")
        self.engine_dir = settings.ENGINE_DIR
        self._describe_sandboxes()
        if sentence := url_guard.explain_single_user():
            self.console.step("Private hosts", sentence)

    def _describe_sandboxes(self) -> None:
        """Print the isolation of agents. If this machine cannot isolate them, the server runs but agents do not."""
        from django.conf import settings

        from conversations import services as conversations

        isolation = conversations.describe_isolation()
        self.exposes_machine = not isolation.is_isolated and not isolation.cause
        if isolation.cause:
            detail = f"agents cannot start. {isolation.cause} {isolation.remedy}"
        else:
            words = {"process": "not isolated: agents run as plain processes with all your rights"}
            by_provider = f"{isolation.word.lower()} by {settings.SANDBOX_PROVIDER}"
            detail = words.get(settings.SANDBOX_PROVIDER, by_provider)
        self.console.step("Sandboxes", detail)

    def _check_services(self) -> None:
        """Raise ``CannotStart`` if PostgreSQL or Redis does not respond."""
        for check, name, program in (
            (check_database, "DATABASE_URL", "PostgreSQL"),
            (check_redis, "REDIS_URL", "Redis"),
        ):
            try:
                check()
            except Unreachable as error:
                raise CannotStart(
                    f"The {program} server of {name} cannot be reached: {error} Correct {name}, or unset it to start "
                    f"a {program} server in the data folder."
                ) from error

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
        return self._public_url + accounts.create_setup_link(email=self.admin_email)

    @property
    def _public_url(self) -> str:
        return os.environ["PUBLIC_URL"].rstrip("/")

    # --- Running ----------------------------------------------------------------

    def _roles(self, listener: socket.socket) -> list[supervisor.ProcessRole]:
        def role(name: str, *arguments: str, **options: Any) -> supervisor.ProcessRole:
            command = [sys.executable, str(env.BASE_DIR / "manage.py"), *arguments]
            return supervisor.ProcessRole(name, command, **options)

        fd = listener.fileno()
        roles = [
            role("web", "run_web", "--fd", str(fd), pass_fds=(fd,)),
            role("worker", "run_worker", "--grace", "5"),
            role("manager", "run_conversation_manager"),
        ]
        if self.grpc_port is not None:
            roles.append(role("grpc", "run_grpc", "--port", str(self.grpc_port)))
        if self.wants_engine:
            from lib.engine_state import plan_installation

            # Conversations that start before the installation begins wait for it too.
            plan = plan_installation()
            done = plan.close if plan else lambda: None
            command = ("install_engine", "--low-priority")
            roles.append(role("engine", *command, once=True, on_done=done))
        return roles

    def _supervise(self, listener: socket.socket, link: str) -> None:
        # The roles do not need the administrator's password.
        environment = {k: v for k, v in os.environ.items() if k != "OH_ADMIN_PASSWORD"}
        runner = supervisor.Supervisor(
            self._roles(listener),
            environment=environment,
            say=self.console.role,
            record=self.folder / "running.json",
        )
        runner.watch_signals()
        is_ready, checked_at = False, 0.0
        try:
            while not runner.stop_requested:
                runner.turn()
                if time.monotonic() - checked_at < CHECK_SECONDS or runner.stop_requested:
                    continue
                checked_at = time.monotonic()
                self._restart_services()
                if not is_ready and self._is_ready(runner):
                    is_ready = True
                    self._print_ready(runner, link)
        finally:
            self.console.say("\nStopping …")
            self._stop(runner)

    def _restart_services(self) -> None:
        if self.services is None:
            return
        try:
            for name in self.services.restart_stopped():
                self.console.role("services", f"{name} stopped unexpectedly and was restarted")
        except CannotStart as error:
            self.console.role("services", str(error))
            time.sleep(1)

    def _is_ready(self, runner: supervisor.Supervisor) -> bool:
        permanent = [role for role in runner.roles if not role.once]
        if not all(role.is_running for role in permanent) or not self._web_answers():
            return False
        if self.grpc_port is not None and not self._grpc_listens():
            return False
        return all(self._is_up(role) for role in permanent if role.name not in ("web", "grpc"))

    def _web_answers(self) -> bool:
        connection = http.client.HTTPConnection(self._own_address(), self.port, timeout=1)
        try:
            connection.request("GET", "/ready", headers={"Host": "localhost"})
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _grpc_listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.grpc_port)):
            return True
        return False

    def _own_address(self) -> str:
        return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)  # noqa: S104

    def _is_up(self, role: supervisor.ProcessRole) -> bool:
        """Return whether a role has connected to the database since it was started.

        The settings use the role's name as the ``application_name`` of its connections.
        """
        from django.db import Error, connection

        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s "
            "AND backend_start > clock_timestamp() - make_interval(secs => %s)"
        )
        try:
            with connection.cursor() as cursor:
                cursor.execute(query, [role.name, role.age_seconds + 1])
                return bool(cursor.fetchone()[0])
        except Error:
            return False
        finally:
            connection.close()

    def _print_ready(self, runner: supervisor.Supervisor, link: str) -> None:
        from django.urls import reverse

        seconds = round(time.monotonic() - self.began, 1)
        url = self._public_url
        self.console.say("")
        if link:
            self.console.say(
                f"Open this link to create the first administrator (it works once):\n  {link}\n"
            )
        is_local = self.host in ("127.0.0.1", "localhost", "::1")
        if self.exposes_machine and not is_local:
            self.console.say(
                "Warning: other machines may reach this server, and its agents are not isolated: they may have all "
                "your rights on this machine."
            )
        self.console.say(f"Ready at {url} (started in {seconds} s). Press Ctrl-C to stop.")
        if link:
            self.console.say(
                "Next: open the link above, then connect a model under Settings, Model."
            )
        else:
            self.console.say(f"Next: sign in at {url}{reverse('sign-in')}.")
        data_dir = ""
        if self.folder != (env.BASE_DIR / "data").resolve():
            data_dir = f"DATA_DIR={shlex.quote(str(self.folder))} "
        self.console.say(f"Other commands: {data_dir}.venv/bin/python manage.py help")
        if self.is_json:
            pids = {role.name: role.process.pid for role in runner.roles if role.process}
            report: dict[str, Any] = {
                "event": "ready",
                "url": url,
                "setup_url": link or None,
                "seconds": seconds,
                "data_dir": str(self.folder),
                "engine_dir": str(self.engine_dir),
                "pids": pids,
            }
            print(json.dumps(report), flush=True)

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


def _is_set(name: str) -> bool:
    """Return whether the environment or ``.env`` sets a variable, directly or through ``NAME_FILE``."""
    return bool(os.environ.get(name) or os.environ.get(f"{name}_FILE"))


def _read_file(path: Path) -> dict[str, str]:
    pairs = (
        line.split("=", 1) for line in _lines(path) if "=" in line and not line.startswith("#")
    )
    return {name.strip(): value.strip().strip("'") for name, value in pairs}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except FileNotFoundError:
        return []


def _keys_of(path: Path) -> dict[str, str]:
    """Return the keys in ``server.env``. They stay in the file even if the environment of this run sets other keys."""
    return {name: value for name, value in _read_file(path).items() if name in KEYS}


def _describe_listener(number: int) -> str:
    """Return " by NAME (process PID)" for the program that listens on a port, or "" if this user cannot see it."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if (
                connection.laddr
                and connection.laddr.port == number
                and connection.status == "LISTEN"
                and connection.pid
            ):
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    return ""
