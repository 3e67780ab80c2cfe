"""Says what is missing, unsafe or unreachable, one line each, and what to do about it.

``manage.py`` runs this before there are settings, so that it can explain why there are none.
"""

import http.client
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from django.core.management.base import BaseCommand, CommandParser

OK, WARNING, FAILED = "ok", "warning", "failed"
LOW_MEGABYTES, FAR_TOO_LOW_MEGABYTES = 2_000, 300
CLOCK_SECONDS = 5
Found = tuple[str, str]


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    state: str
    detail: str


class Command(BaseCommand):
    help = "Check settings, database, Redis, storage, engine and safety; exits with 1 when something failed."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="the report as one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        checks = []
        for check in examine():
            checks.append(check)
            if not options["json"]:
                self.stdout.write(self._line(check))
        failed = sum(check.state == FAILED for check in checks)
        warned = sum(check.state == WARNING for check in checks)
        if options["json"]:
            report = {"ok": not failed, "checks": [asdict(check) for check in checks]}
            self.stdout.write(json.dumps(report, indent=2))
        else:
            self.stdout.write(
                f"\n{len(checks)} checks: {failed} failed, {warned} warning{'' if warned == 1 else 's'}."
            )
        if failed:
            sys.exit(1)

    def _line(self, check: Check) -> str:
        paint = {OK: self.style.SUCCESS, WARNING: self.style.WARNING, FAILED: self.style.ERROR}
        return f"{paint[check.state](f'{check.state:<8}')} {check.name:<16} {check.detail}"


def examine() -> Iterator[Check]:
    """Every check in turn; none of them raises. What needs settings is left out without them."""
    checks = [_python, _settings]
    for probe in checks:
        check = _run(probe)
        yield check
        if check.state == FAILED:
            return
    later = [_database, _migrations, _clock, _redis, _data_folder, _space, _engine, _git, _tmux]
    later += [_server, _keys, _debug, _https, _process_sandbox, _administrator]
    for probe in later:
        yield _run(probe)


def _run(probe: Callable[[], Found]) -> Check:
    name = probe.__name__.strip("_").replace("_", " ").capitalize()
    name = {"Https": "HTTPS", "Git": "git", "Tmux": "tmux"}.get(name, name)
    try:
        return Check(name, *probe())
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the report has to say
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Check(name, FAILED, lines[-1])


def _python() -> Found:
    version = sys.version.split()[0]
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever has an older one is told by this
        return FAILED, f"{version}; this server needs 3.11 or newer."
    return OK, version


def _settings() -> Found:
    import django
    from django.conf import settings
    from django.core.exceptions import ImproperlyConfigured

    os.environ.setdefault("LOG_FORMAT", "text")
    try:
        django.setup()
    except ImproperlyConfigured as error:
        return FAILED, (
            f"{error} `make run` makes settings of its own in the data folder; point DATA_DIR at it if it is "
            "not `data`."
        )
    return OK, f"read; the data folder is {settings.DATA_DIR}"


def _database() -> Found:
    from django.db import Error, connection

    try:
        with connection.cursor() as cursor:
            cursor.execute("SHOW server_version")
            version = cursor.fetchone()[0].split()[0]
    except Error as error:
        reason = (str(error).strip().splitlines() or ["no answer"])[-1]
        return (
            FAILED,
            f"cannot be reached ({reason}). Start the server by `make run`, or correct DATABASE_URL.",
        )
    if int(version.split(".")[0]) < 14:
        return FAILED, f"PostgreSQL {version} is too old; Django 5.2 needs 14."
    return OK, f"PostgreSQL {version}"


def _migrations() -> Found:
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        return FAILED, f"{len(missing)} are not applied. Run `manage.py migrate`."
    return OK, "all applied"


def _clock() -> Found:
    from django.db import connection
    from django.utils import timezone

    with connection.cursor() as cursor:
        before = timezone.now()
        cursor.execute("SELECT clock_timestamp()")
        apart = abs((cursor.fetchone()[0] - before).total_seconds())
    if apart > CLOCK_SECONDS:
        return (
            WARNING,
            f"{apart:.0f} s apart from the database's. Keep both by NTP: sessions and keys expire by it.",
        )
    return OK, f"{apart * 1000:.0f} ms from the database's"


def _redis() -> Found:
    import redis
    from django.conf import settings

    try:
        with redis.Redis.from_url(
            settings.REDIS_URL, socket_connect_timeout=2, socket_timeout=2
        ) as client:
            version = client.info("server")["redis_version"]
    except (redis.RedisError, ValueError) as error:
        return (
            FAILED,
            f"cannot be reached ({error}). Start the server by `make run`, or correct REDIS_URL.",
        )
    return OK, f"Redis {version}"


def _data_folder() -> Found:
    from django.conf import settings

    folder: Path = settings.DATA_DIR
    if not folder.is_dir():
        return FAILED, f"{folder} does not exist. `make run` makes it; otherwise set DATA_DIR."
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        return (
            FAILED,
            f"{folder} cannot be written ({error.strerror}). Correct its owner, or set DATA_DIR.",
        )
    return OK, str(folder)


def _space() -> Found:
    from django.conf import settings

    folder: Path = settings.DATA_DIR
    while not folder.exists():
        folder = folder.parent
    free = psutil.disk_usage(str(folder)).free // 1_000_000
    if free < FAR_TOO_LOW_MEGABYTES:
        return FAILED, f"{free} MB free. PostgreSQL stops when the disk is full: free some now."
    if free < LOW_MEGABYTES:
        return WARNING, f"{free} MB free; a sandbox alone may need more. Free some."
    return OK, f"{free} MB free"


def _engine() -> Found:
    from lib import engine_home

    found = engine_home.status()
    if found.is_ready:
        return OK, found.detail
    if found.state == "installing":
        return WARNING, found.detail
    return FAILED, f"{found.detail} Run `manage.py install_engine`; agents do not start without it."


def _git() -> Found:
    return _program("git", "conversations cannot work on repositories, nor show what changed")


def _tmux() -> Found:
    return _program(
        "tmux", "terminals of agents work without it, but forget their state more often"
    )


def _program(name: str, loss: str) -> Found:
    if path := shutil.which(name):
        return OK, path
    return WARNING, f"not found: {loss}. Install it by the system's package manager."


def _server() -> Found:
    from django.conf import settings

    url = urlsplit(settings.PUBLIC_URL)
    is_https = url.scheme == "https"
    connect = http.client.HTTPSConnection if is_https else http.client.HTTPConnection
    connection = connect(url.hostname or "", url.port, timeout=3)
    try:
        connection.request("GET", f"{url.path}/ready")
        answer = connection.getresponse()
        body = json.loads(answer.read(65_536))
        checks = body["checks"]
    except OSError as error:
        return (
            WARNING,
            f"{settings.PUBLIC_URL} does not answer ({error}). Is it running, and PUBLIC_URL right?",
        )
    except (http.client.HTTPException, ValueError, LookupError, TypeError):
        return (
            FAILED,
            f"something else answers at {settings.PUBLIC_URL}. Correct PUBLIC_URL, or free the port.",
        )
    finally:
        connection.close()
    if answer.status != 200:
        missing = ", ".join(name for name, check in checks.items() if not check["ok"])
        return FAILED, f"{settings.PUBLIC_URL} is not ready: {missing}."
    return OK, f"{settings.PUBLIC_URL} is ready"


def _keys() -> Found:
    from django.conf import settings

    secret = settings.SECRET_KEY
    if len(secret) < 32 or len(set(secret)) < 8 or secret.startswith("django-insecure"):
        return FAILED, "SECRET_KEY is weak. Set 50 random characters: `openssl rand -base64 48`."
    for name in ("ENCRYPTION_KEYS", "TOKEN_PEPPERS"):
        for key_id, key in getattr(settings, name).items():
            if len(set(key)) < 12:
                return (
                    FAILED,
                    f"{name}: the key {key_id} is not random. Put `openssl rand -hex 32` in its place.",
                )
    both = set(settings.ENCRYPTION_KEYS.values()) & set(settings.TOKEN_PEPPERS.values())
    if both:
        return WARNING, "ENCRYPTION_KEYS and TOKEN_PEPPERS share a key. Give each its own."
    return OK, "long and random"


def _debug() -> Found:
    from django.conf import settings

    if settings.DEBUG:
        return (
            WARNING,
            "DEBUG is on: error pages show settings and source. Unset it where others can reach it.",
        )
    return OK, "off"


def _https() -> Found:
    from django.conf import settings

    host = urlsplit(settings.PUBLIC_URL).hostname
    if settings.IS_HTTPS or host in ("127.0.0.1", "localhost", "::1"):
        return OK, settings.PUBLIC_URL
    return (
        WARNING,
        f"{settings.PUBLIC_URL} sends passwords in the clear. Put a proxy with TLS in front.",
    )


def _process_sandbox() -> Found:
    from django.conf import settings

    if settings.SANDBOX_PROVIDER != "process":
        return OK, f"not used; sandboxes come from {settings.SANDBOX_PROVIDER}"
    if not settings.ALLOW_PROCESS_SANDBOX:
        return FAILED, (
            "SANDBOX_PROVIDER is process, which ALLOW_PROCESS_SANDBOX does not allow, so agents do not start. "
            "Set it to true if everybody who signs in may do on this machine what this user can."
        )
    return (
        WARNING,
        "isolates nothing: agents can do on this machine what this user can. Admit only people you trust.",
    )


def _administrator() -> Found:
    from accounts import services as accounts

    if accounts.has_administrator():
        return OK, "there is one"
    return WARNING, "there is none. `make run` prints a link for the first."
