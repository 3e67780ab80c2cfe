"""One command to a running server: services, keys, tables, engine and every role in one terminal.

``manage.py`` runs this before there are settings: it makes the environment that they are read from.
"""

import argparse
import contextlib
import http.client
import ipaddress
import json
import os
import secrets
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

from lib import env, processes
from openhands_site.operating import embedded, supervisor
from openhands_site.operating.embedded import CannotStart

SPARE_MEGABYTES = 300
KEYS = ("SECRET_KEY", "ENCRYPTION_KEYS", "TOKEN_PEPPERS")
LOOK_SECONDS = 0.3


class Command(BaseCommand):
    help = (
        "Start everything on this machine: PostgreSQL, Redis, the tables, the engine and all roles."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--host", default="127.0.0.1", help="address to listen on (%(default)s)"
        )
        parser.add_argument("--port", type=port, default=8000, help="port (%(default)s)")
        parser.add_argument(
            "--data-dir", type=Path, help="where everything is kept (DATA_DIR, or data)"
        )
        parser.add_argument(
            "--admin-email",
            default="",
            help="the first administrator; with OH_ADMIN_PASSWORD set no link is needed",
        )
        parser.add_argument(
            "--grpc-port", type=port, help="serve gRPC too, on this port of this machine"
        )
        parser.add_argument("--json", action="store_true", help="JSON lines on standard output")
        parser.add_argument("--no-engine", action="store_true", help="leave the agent engine alone")

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
            sys.exit(f"\n{embedded.sentence(f'{error.strerror}: {error.filename}', start.folder)}")
        except KeyboardInterrupt:
            sys.exit("\nInterrupted before everything was up; nothing was left running.")


def port(text: str) -> int:
    """A TCP port for ``argparse``."""
    if not text.isdigit() or not 1 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535; {text!r} is not")
    return int(text)


@dataclass
class Quickstart:
    """One run, from the folder to the last process ended."""

    host: str
    port: int
    data_dir: Path | None
    admin_email: str
    is_json: bool
    wants_engine: bool
    grpc_port: int | None = None
    services: embedded.Embedded | None = field(default=None, init=False)
    began: float = field(default_factory=time.monotonic, init=False)

    def run(self) -> None:
        """Start, serve until asked to stop, stop. Raises ``CannotStart``."""
        self.console = supervisor.Console(sys.stderr if self.is_json else sys.stdout)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._data_folder())
            listener = stack.enter_context(self._listen())
            self._look_at_grpc_port()
            self._settle_environment()
            stack.callback(self._stop_services)
            self._start_services()
            self._write_environment()
            self._migrate()
            link = self._first_administrator()
            self._supervise(listener, link)

    # --- Preparations -----------------------------------------------------------

    @property
    def folder(self) -> Path:
        """The data folder: option, ``DATA_DIR``, or ``data`` in the project."""
        if self.data_dir is not None:
            return self.data_dir.expanduser().resolve()
        found: Path = env.path("DATA_DIR", env.BASE_DIR / "data").resolve()
        return found

    @contextlib.contextmanager
    def _data_folder(self) -> Iterator[None]:
        env.load_file(env.BASE_DIR / ".env")
        folder = self.folder
        with embedded.explained(folder):
            embedded.make_private(folder)
            lock = processes.hold(folder / "quickstart.lock")
        if lock is None:
            raise embedded.AlreadyRunning(self._running_already())
        with lock:
            free = psutil.disk_usage(str(folder)).free // 1_000_000
            if free < SPARE_MEGABYTES:
                raise CannotStart(
                    f"The disk that holds {folder} has {free} MB left and the server needs "
                    f"{SPARE_MEGABYTES} MB to start. Free some, or name a folder on another disk: "
                    "make run DATA_DIR=/path/to/folder."
                )
            self.console.step("Data folder", str(folder))
            if ended := supervisor.end_leftovers(folder / "running.json"):
                self.console.step("Left over", f"ended {ended} processes of a run that was killed")
            yield

    def _running_already(self) -> str:
        with contextlib.suppress(OSError):
            pid = (self.folder / "quickstart.lock").read_text().strip()
            return (
                f"The server is already running in {self.folder} (process {pid}). Stop it by Ctrl-C in its "
                f"terminal or `kill {pid}`, or start another in its own folder: make run DATA_DIR=/other PORT=8001."
            )
        return f"The server is already running in {self.folder}."

    def _listen(self) -> socket.socket:
        """Take the port now: a server that cannot have it should not start a database first."""
        try:
            family = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0][0]
            listener = socket.create_server((self.host, self.port), family=family, backlog=2048)
        except socket.gaierror as error:
            raise CannotStart(
                f"{self.host} is not an address of this machine ({error.strerror})."
            ) from error
        except PermissionError as error:
            raise CannotStart(
                f"Port {self.port} is reserved for the system. Choose one above 1023: make run PORT=8000."
            ) from error
        except OSError as error:
            if error.errno == 98 or "in use" in str(error):
                raise CannotStart(
                    f"Port {self.port} is taken{_by_whom(self.port)}. Stop what uses it, or choose another "
                    f"port: make run PORT={self.port % 65_535 + 1}."
                ) from error
            raise CannotStart(
                f"Cannot listen on {self.host}:{self.port}: {error.strerror}."
            ) from error
        listener.set_inheritable(True)
        return listener

    def _look_at_grpc_port(self) -> None:
        if self.grpc_port is not None and self._grpc_listens():
            raise CannotStart(
                f"Port {self.grpc_port} is taken{_by_whom(self.grpc_port)}. Choose another one for gRPC by --grpc-port."
            )

    def _settle_environment(self) -> None:
        """Fill what the environment leaves open; what it says wins over ``server.env``."""
        kept = _read_file(self.folder / "server.env")
        url = f"http://127.0.0.1:{self.port}"
        public = urlsplit(os.environ.get("PUBLIC_URL") or url)
        named = ["127.0.0.1", "localhost", *self._own_names(), public.hostname or ""]
        hosts = [
            f"[{name}]" if ":" in name else name for name in dict.fromkeys(filter(None, named))
        ]
        origins = [
            f"{public.scheme}://{public.netloc}",
            *(f"http://{h}:{self.port}" for h in hosts),
        ]
        self.own = {
            "SECRET_KEY": kept.get("SECRET_KEY") or secrets.token_urlsafe(48),
            "ENCRYPTION_KEYS": kept.get("ENCRYPTION_KEYS") or f"k1:{secrets.token_hex(32)}",
            "TOKEN_PEPPERS": kept.get("TOKEN_PEPPERS") or f"p1:{secrets.token_hex(32)}",
            "PUBLIC_URL": url,
            "GATEWAY_URL": url,
            "ALLOWED_HOSTS": ",".join(hosts),
            "ALLOWED_ORIGINS": ",".join(dict.fromkeys(origins)),
            "ALLOW_PROCESS_SANDBOX": "true",
            "UPSTREAM_ALLOW_PRIVATE": "true",
        }
        is_new = not any(name in kept for name in KEYS)
        if is_new and (self.folder / "postgresql").exists():
            self.console.step(
                "Keys", "server.env is gone: API keys and secrets of before do not open any more"
            )
        elif is_new:
            self.console.step("Keys", f"made, kept in {self.folder / 'server.env'}")
        os.environ["DATA_DIR"] = str(self.folder)

    def _own_names(self) -> list[str]:
        """What people may call this machine by when it listens on every address."""
        if self.host not in ("0.0.0.0", "::", ""):  # noqa: S104 - compared, not bound
            return [self.host]
        found = [socket.gethostname()]
        for addresses in psutil.net_if_addrs().values():
            for address in addresses:
                with contextlib.suppress(ValueError):
                    found.append(str(ipaddress.ip_address(address.address.partition("%")[0])))
        return found

    def _start_services(self) -> None:
        needs_database, needs_redis = not _given("DATABASE_URL"), not _given("REDIS_URL")
        if needs_database or needs_redis:
            self.services = embedded.start(self.folder)
            for note in self.services.notes:
                self.console.step("Note", note)
            if needs_database:
                self.own["DATABASE_URL"] = self.services.database_url
            if needs_redis:
                self.own["REDIS_URL"] = self.services.redis_url
        for name, is_ours in (("PostgreSQL", needs_database), ("Redis", needs_redis)):
            self.console.step(name, "running" if is_ours else "given by the environment")

    def _stop_services(self) -> None:
        if self.services is not None:
            self.services.stop()
            self.services = None

    def _write_environment(self) -> None:
        """Keep what other commands need, readable for us alone, whole at every moment."""
        self.own = {name: value for name, value in self.own.items() if not _given(name)}
        path = self.folder / "server.env"
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        lines = [
            "# Written by `manage.py quickstart`. The three keys are as precious as the data: back them up."
        ]
        lines += [f"{name}='{value}'" for name, value in (_keys_of(path) | self.own).items()]
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        os.environ.update(self.own)

    def _migrate(self) -> None:
        import django
        from django.conf import settings
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import call_command

        # No pool in this process: its threads do not go well with starting children.
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
        self._reach()
        began = time.monotonic()
        call_command("migrate", interactive=False, verbosity=0)
        settings.STATIC_ROOT.mkdir(exist_ok=True)  # WhiteNoise warns of a folder that is not there
        self.console.step("Tables", f"up to date ({time.monotonic() - began:.1f} s)")
        self.engine_dir = settings.ENGINE_DIR

    def _reach(self) -> None:
        """Whether PostgreSQL and Redis answer, with a sentence when they do not."""
        import redis
        from django.conf import settings
        from django.db import Error, connection

        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except Error as error:
            reason = str(error).strip().splitlines()[-1]
            raise CannotStart(
                f"The PostgreSQL of DATABASE_URL cannot be reached: {reason}. Correct it, or unset "
                "DATABASE_URL to have one started."
            ) from error
        try:
            with redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=3) as client:
                client.ping()
        except (redis.RedisError, ValueError) as error:
            raise CannotStart(
                f"The Redis of REDIS_URL cannot be reached: {error} Correct it, or unset REDIS_URL to have "
                "one started."
            ) from error

    def _first_administrator(self) -> str:
        """The address of a one-time link while there is no administrator, else nothing."""
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
            except Problem as refusal:
                raise CannotStart(
                    f"The administrator {self.admin_email} cannot be made: {refusal}"
                ) from refusal
            self.console.step("Admin", f"{self.admin_email} may sign in")
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
            roles.append(role("engine", "install_engine", once=True))
        return roles

    def _supervise(self, listener: socket.socket, link: str) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "OH_ADMIN_PASSWORD"}
        runner = supervisor.Supervisor(
            self._roles(listener),
            environment=environment,
            say=self.console.role,
            record=self.folder / "running.json",
        )
        runner.watch_signals()
        is_ready, looked_at = False, 0.0
        try:
            while not runner.stop_requested:
                runner.turn()
                if time.monotonic() - looked_at < LOOK_SECONDS or runner.stop_requested:
                    continue
                looked_at = time.monotonic()
                self._revive()
                if not is_ready and self._is_ready(runner):
                    is_ready = True
                    self._announce(runner, link)
        finally:
            self.console.say("\nStopping …")
            self._stop(runner)

    def _revive(self) -> None:
        if self.services is None:
            return
        try:
            for name in self.services.revive():
                self.console.role("services", f"{name} had died and was started again")
        except CannotStart as refusal:
            self.console.role("services", str(refusal))
            time.sleep(1)

    def _is_ready(self, runner: supervisor.Supervisor) -> bool:
        lasting = [role for role in runner.roles if not role.once]
        if not all(role.is_running for role in lasting) or not self._web_answers():
            return False
        if self.grpc_port is not None and not self._grpc_listens():
            return False
        return all(self._is_up(role) for role in lasting if role.name not in ("web", "grpc"))

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
        """Whether a role has opened the database since it was started; settings name it there."""
        from django.db import Error, connection

        question = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s "
            "AND backend_start > clock_timestamp() - make_interval(secs => %s)"
        )
        try:
            with connection.cursor() as cursor:
                cursor.execute(question, [role.name, role.age_seconds + 1])
                return bool(cursor.fetchone()[0])
        except Error:
            return False
        finally:
            connection.close()

    def _announce(self, runner: supervisor.Supervisor, link: str) -> None:
        seconds = round(time.monotonic() - self.began, 1)
        url = self._public_url
        self.console.say("")
        if link:
            self.console.say(f"Set up the first administrator (this link works once):\n  {link}\n")
        if self.host not in ("127.0.0.1", "localhost", "::1"):
            self.console.say(
                "Others can reach this server, and its agents can do what you can on this machine."
            )
        self.console.say(f"Ready {url} ({seconds} s). Ctrl-C stops everything.")
        if self.is_json:
            pids = {role.name: role.process.pid for role in runner.roles if role.process}
            told: dict[str, Any] = {
                "event": "ready",
                "url": url,
                "setup_url": link or None,
                "seconds": seconds,
            }
            told |= {"data_dir": str(self.folder), "engine_dir": str(self.engine_dir), "pids": pids}
            print(json.dumps(told), flush=True)

    def _stop(self, runner: supervisor.Supervisor) -> None:
        runner.stop()
        self._stop_sandboxes()
        self._stop_services()
        runner.end_descendants()
        self.console.say("Stopped. The data is kept.")

    def _stop_sandboxes(self) -> None:
        from conversations import services as conversations

        try:
            conversations.stop_all_sandboxes()
        except Exception as error:  # noqa: BLE001 - whatever it is, the services still have to be stopped
            self.console.role("services", f"sandboxes were not stopped in order: {error}")


def _given(name: str) -> bool:
    """Whether the environment (or ``.env``) sets it, directly or by a file."""
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
    """The keys on file stay there even in a run whose environment brings others."""
    return {name: value for name, value in _read_file(path).items() if name in KEYS}


def _by_whom(number: int) -> str:
    with contextlib.suppress(psutil.Error, OSError):
        for found in psutil.net_connections("tcp"):
            if (
                found.laddr
                and found.laddr.port == number
                and found.status == "LISTEN"
                and found.pid
            ):
                return f" by {psutil.Process(found.pid).name()} (process {found.pid})"
    return ""
