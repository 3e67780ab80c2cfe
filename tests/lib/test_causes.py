"""Causes of errors of PostgreSQL, Redis and the operating system, as the real services report them."""

import errno
import html
import logging
import os
import uuid

import psycopg
import pytest
import redis
from django.conf import settings
from django.db import (
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
    connection,
    transaction,
)
from rest_framework.test import APIClient

from lib import causes, logs
from lib.causes import explain, find_cause
from openhands_site.operating import embedded


def postgresql(**more):
    """Open a connection to the tests' PostgreSQL."""
    at = connection.settings_dict
    options = {"host": at["HOST"], "dbname": at["NAME"], "user": at["USER"]}
    if at["PORT"]:
        options["port"] = at["PORT"]
    return psycopg.connect(**(options | {"password": at["PASSWORD"]} | more), autocommit=True)


def failure(*statements):
    """Run statements in Django's connection and return the error."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
    except Exception as error:  # noqa: BLE001 - any error is the result
        return error
    raise AssertionError("no error")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("statements", "code"),
    [
        (("SET LOCAL statement_timeout = 20", "SELECT pg_sleep(5)"), "database-timeout"),
        (
            ("SET TRANSACTION READ ONLY", "CREATE TABLE refused (id int)"),
            "database-read-only",
        ),
        (("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '53100'; END $$",), "disk-full"),
        (
            ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '53200'; END $$",),
            "database-out-of-memory",
        ),
        (
            ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END $$",),
            "database-locked",
        ),
        (
            ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '57P01'; END $$",),
            "database-restarting",
        ),
    ],
)
def test_error_of_a_statement_is_explained(statements, code):
    assert find_cause(failure(*statements)).code == code


@pytest.mark.django_db(transaction=True)
def test_lock_timeout_is_explained():
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS held_for_a_test (id int)")
    try:
        with postgresql() as other:
            other.execute("BEGIN")
            other.execute("LOCK TABLE held_for_a_test")
            error = failure("SET LOCAL lock_timeout = 20", "LOCK TABLE held_for_a_test")
        assert explain(error).code == "database-locked"
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE held_for_a_test")


@pytest.mark.django_db(transaction=True)
def test_ended_connection_is_explained():
    with postgresql() as other:
        pid = other.info.backend_pid
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
        with pytest.raises(psycopg.Error) as caught:
            other.execute("SELECT 1")
    assert explain(caught.value).code == "database-restarting"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("create", "code"),
    [
        ("CREATE ROLE {} LOGIN CONNECTION LIMIT 0", "database-too-many-connections"),
        ("CREATE ROLE {} NOLOGIN", "database-refuses-sign-in"),
        ("SELECT '{}'", "database-refuses-sign-in"),
    ],
    ids=["limit", "no login", "no role"],
)
def test_refused_connection_is_explained(create, code):
    name = f"t{uuid.uuid4().hex[:12]}"
    with connection.cursor() as cursor:
        cursor.execute(create.format(name))
        try:
            with pytest.raises(psycopg.OperationalError) as caught:
                postgresql(user=name)
        finally:
            cursor.execute(f"DROP ROLE IF EXISTS {name}")
    assert explain(caught.value).code == code


@pytest.mark.django_db(transaction=True)
def test_missing_database_and_unreachable_server_are_explained(tmp_path):
    with pytest.raises(psycopg.OperationalError) as caught:
        postgresql(dbname="no-such-database")
    assert explain(caught.value).code == "database-refuses-sign-in"
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(host=str(tmp_path), dbname="x")
    assert explain(caught.value).code == "unavailable"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('FATAL:  password authentication failed for user "oh"', "database-refuses-sign-in"),
        ("FATAL:  sorry, too many clients already", "database-too-many-connections"),
        (
            "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
            "database-too-many-connections",
        ),
        ("FATAL:  the database system is shutting down", "database-restarting"),
        ("FATAL:  the database system is in recovery mode", "database-restarting"),
        ("FATAL:  the database system is not yet accepting connections", "database-restarting"),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1"', "database-refuses-sign-in"),
        ("session is read-only", "database-read-only"),
        ('could not write to file "pg_wal/x": No space left on device', "disk-full"),
        ("Connection refused", "unavailable"),
        ("server closed the connection unexpectedly", "unavailable"),
    ],
)
def test_error_of_a_connection_is_explained_by_its_text(text, code):
    assert explain(OperationalError(text)).code == code
    assert explain(psycopg.OperationalError(text)).code == code


def test_closed_connection_is_unavailable():
    assert explain(InterfaceError("connection already closed")).code == "unavailable"


@pytest.mark.parametrize(
    "error",
    [
        IntegrityError("duplicate key"),
        ProgrammingError('relation "x" does not exist'),
        InternalError("an unexpected state"),
        ValueError("x"),
        OSError(errno.ENOENT, "missing"),
        None,
    ],
)
def test_fault_of_this_server_has_no_cause(error):
    assert find_cause(error) is None


@pytest.mark.parametrize(
    ("number", "code", "status"),
    [
        (errno.ENOSPC, "disk-full", 507),
        (errno.EDQUOT, "disk-full", 507),
        (errno.EROFS, "read-only-disk", 503),
        (errno.EMFILE, "too-many-open-files", 503),
        (errno.ENFILE, "too-many-open-files", 503),
    ],
)
def test_error_of_the_system_is_explained(number, code, status):
    cause = find_cause(OSError(number, os.strerror(number)))
    assert (cause.code, cause.status) == (code, status)


# --- Redis ------------------------------------------------------------------------


@pytest.fixture
def own_redis(tmp_path):
    """A Redis of its own, whose configuration a test may change."""
    server = embedded.Redis(tmp_path, tmp_path)
    server.start()
    with redis.Redis.from_url(server.url) as client:
        yield client
    server.stop()


def test_full_and_read_only_redis_and_wrong_password_are_explained(own_redis):
    own_redis.config_set("maxmemory", "1")
    with pytest.raises(redis.RedisError) as caught:
        own_redis.set("a", "b")
    assert explain(caught.value).code == "redis-full"
    own_redis.config_set("maxmemory", "0")
    own_redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(redis.RedisError) as caught:
        own_redis.set("a", "b")
    assert explain(caught.value).code == "redis-read-only"
    own_redis.execute_command("REPLICAOF", "NO", "ONE")
    own_redis.config_set("requirepass", "secret")
    path = own_redis.connection_pool.connection_kwargs["path"]
    for password in (None, "wrong"):
        other = redis.Redis(unix_socket_path=path, password=password)
        with pytest.raises(redis.RedisError) as caught:
            other.ping()
        assert explain(caught.value).code == "redis-refuses-sign-in"
    own_redis.execute_command("AUTH", "secret")
    own_redis.config_set("requirepass", "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (redis.exceptions.BusyLoadingError("Redis is loading"), "redis-loading"),
        (redis.ResponseError("LOADING Redis is loading the dataset"), "redis-loading"),
        (redis.ResponseError("MISCONF Redis is configured to save"), "redis-read-only"),
        (redis.ResponseError("NOREPLICAS Not enough good replicas to write."), "redis-read-only"),
        (redis.ResponseError("MASTERDOWN Link with MASTER is down"), "redis-read-only"),
        (redis.ConnectionError("max number of clients reached"), "redis-too-many-connections"),
        (redis.ResponseError("NOPERM this user has no permissions"), "redis-refuses-sign-in"),
        (redis.ConnectionError("Connection refused"), "redis-unavailable"),
        (redis.TimeoutError("Timeout"), "redis-unavailable"),
    ],
)
def test_error_of_redis_is_explained(error, code):
    assert explain(error).code == code


# --- Responses and log --------------------------------------------------------------

ERRORS = [
    (OperationalError("x"), 503, "unavailable"),
    (OSError(errno.ENOSPC, "No space left on device"), 507, "disk-full"),
    (redis.ResponseError("OOM command not allowed"), 503, "redis-full"),
]


@pytest.mark.django_db
@pytest.mark.parametrize(("error", "status", "code"), ERRORS)
@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/api/v1/conversations", "conversations.api.v1.conversations.ConversationViewSet.list"),
        ("/health", "compat.accounts.site.HealthView.get"),
    ],
)
def test_api_responds_with_the_cause_as_problem_details(
    alice, monkeypatch, error, status, code, path, target
):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(target, fail)
    client = APIClient()
    client.force_authenticate(alice)
    response = client.get(path)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.json()["detail"]
    assert int(response.headers["Retry-After"]) > 0


@pytest.mark.django_db
@pytest.mark.parametrize(("error", "status", "code"), ERRORS)
@pytest.mark.parametrize(
    "target",
    [
        "openhands_site.middleware.maintenance.MaintenanceMode.__call__",
        "openhands_site.middleware.rate_limits.RateLimits.__call__",
    ],
)
@pytest.mark.parametrize("path", ["/sign-in", "/api/v1/conversations"])
def test_error_of_a_middleware_is_responded_with_its_cause(
    client, monkeypatch, error, status, code, target, path
):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(target, fail)
    client.raise_request_exception = False
    response = client.get(path)
    sentence = causes.find_cause(error).sentence
    assert response.status_code == status
    if path.startswith("/api/"):
        assert response.json()["detail"] == sentence
    else:
        assert html.escape(sentence) in response.content.decode()


def test_tracebacks_of_one_cause_become_one_line_a_minute():
    logs._last_lines.clear()
    filter_ = causes.OneLinePerCause()

    def record(error):
        return logging.makeLogRecord(
            {
                "name": "t",
                "msg": "failed %s",
                "args": ("x",),
                "exc_info": (type(error), error, None),
            }
        )

    first = record(OperationalError("connection refused"))
    assert filter_.filter(first)
    assert first.exc_info is None
    assert "failed x (unavailable: Check that PostgreSQL runs" in first.getMessage()
    assert not filter_.filter(record(OperationalError("connection refused")))
    other = record(OSError(errno.ENOSPC, "No space left on device"))
    assert filter_.filter(other)
    assert "disk-full" in other.getMessage()
    unknown = record(ValueError("a fault of this server"))
    assert filter_.filter(unknown)
    assert unknown.exc_info is not None
    assert settings.LOGGING["handlers"]["console"]["filters"][0] == "causes"
