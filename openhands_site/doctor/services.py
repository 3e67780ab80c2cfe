"""Checks of the services that the server needs: PostgreSQL, Redis, and the server itself as others reach it."""

import http.client
import json
from urllib.parse import urlsplit

from lib.reachability import Unreachable, check_database, check_redis
from openhands_site.doctor.findings import Finding, failed, ok, warning

CLOCK_SECONDS = 5
"""The maximum difference between the clocks of this machine and of the database server."""


def database() -> Finding:
    """Check that PostgreSQL answers and is not too old."""
    try:
        version = check_database()
    except Unreachable as error:
        return failed(str(error))
    if int(version.split(".")[0]) < 14:
        return failed(f"PostgreSQL {version} is too old.", "Upgrade to PostgreSQL 14 or newer.")
    return ok(f"PostgreSQL {version}")


def migrations() -> Finding:
    """Check that the tables are those of this version."""
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor

    from openhands_site.operating import tables

    try:
        tables.check_tables()
    except tables.OldTables as error:
        return failed(str(error))
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        return failed(
            f"{len(missing)} migrations are not applied.",
            "Run `manage.py migrate`.",
            command="migrate",
        )
    return ok("all applied")


def clock() -> Finding:
    """Compare the clock of this machine with that of the database server."""
    from django.db import connection
    from django.utils import timezone

    with connection.cursor() as cursor:
        before = timezone.now()
        cursor.execute("SELECT clock_timestamp()")
        difference = abs((cursor.fetchone()[0] - before).total_seconds())
    if difference > CLOCK_SECONDS:
        return warning(
            f"differs from the database server's clock by {difference:.0f} s, so sessions and keys expire at the "
            "wrong time.",
            "Synchronize both clocks with NTP.",
        )
    return ok(f"differs from the database server's clock by {difference * 1000:.0f} ms")


def redis() -> Finding:
    """Check that Redis answers."""
    try:
        return ok(check_redis())
    except Unreachable as error:
        return failed(str(error))


def server() -> Finding:
    """Ask the server at ``PUBLIC_URL`` whether it is ready, as this machine reaches it."""
    from django.conf import settings

    url = urlsplit(settings.PUBLIC_URL)
    is_https = url.scheme == "https"
    connect = http.client.HTTPSConnection if is_https else http.client.HTTPConnection
    connection = connect(url.hostname or "", url.port, timeout=3)
    try:
        connection.request("GET", f"{url.path}/ready")
        response = connection.getresponse()
        body = json.loads(response.read(65_536))
        checks = body["checks"]
    except OSError as error:
        return warning(
            f"{settings.PUBLIC_URL} does not respond to this machine ({error}).",
            "Start the server if it is stopped, or correct PUBLIC_URL.",
        )
    except (http.client.HTTPException, ValueError, LookupError, TypeError):
        return failed(
            f"another program responds at {settings.PUBLIC_URL}.",
            "Stop it, or correct PUBLIC_URL.",
        )
    finally:
        connection.close()
    if response.status != 200:
        names = ", ".join(name for name, check in checks.items() if not check["ok"])
        reason = f"{names} failed" if names else f"its status is {body.get('status')}"
        return failed(f"{settings.PUBLIC_URL} is not ready: {reason}.")
    return ok(f"{settings.PUBLIC_URL} is ready")
