"""A thread's persistent database connection: it is reused between requests and replaced after it was closed."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.management import call_command
from django.core.signals import request_finished
from django.db import InternalError, connection, connections, transaction

from conversations.manager.manager import Manager
from lib.connections import PersistentConnection, limit_idle_transactions

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def thread():
    with ThreadPoolExecutor(1) as pool:
        yield pool
        pool.submit(connections.close_all).result()


def fetch_backend_pid(environ, start_response):
    """Return the id of the PostgreSQL process that serves this thread's connection, as a WSGI application."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid = cursor.fetchone()[0]
    request_finished.send(sender=None)
    return pid


def send_request(thread):
    return thread.submit(PersistentConnection(fetch_backend_pid), {}, None).result(30)


def test_connection_is_reused_by_the_next_request(thread, settings):
    settings.DATABASE_KEEP_SECONDS = 60
    assert send_request(thread) == send_request(thread)

    settings.DATABASE_KEEP_SECONDS = 0
    # The connections of other threads keep the setting.
    assert connection.settings_dict["CONN_MAX_AGE"] == 0


def test_connection_closed_by_postgresql_is_replaced_before_the_next_request(thread, settings):
    settings.DATABASE_KEEP_SECONDS = 60
    first = send_request(thread)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [first])

    assert send_request(thread) != first


@pytest.fixture
def options(monkeypatch):
    """Restore the options of database connections after the test."""
    monkeypatch.setitem(
        connection.settings_dict, "OPTIONS", {**connection.settings_dict["OPTIONS"]}
    )


def wait_in_a_transaction(seconds):
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        time.sleep(seconds)
        cursor.execute("SELECT 1")


def read_idle_transaction_limit():
    with connection.cursor() as cursor:
        cursor.execute("SHOW idle_in_transaction_session_timeout")
        return cursor.fetchone()[0]


def test_idle_transaction_is_rolled_back_after_the_limit(thread, options):
    limit_idle_transactions(0.2)
    with pytest.raises(InternalError, match="idle-in-transaction"):
        thread.submit(wait_in_a_transaction, 0.6).result(30)


def test_limit_of_idle_transactions_is_never_raised(thread, options, settings):
    settings.DATABASE_IDLE_TRANSACTION_TIMEOUT_MS = 300
    limit_idle_transactions(5)

    assert thread.submit(read_idle_transaction_limit).result(30) == "300ms"


def test_paused_manager_loses_its_transactions_with_its_leases(options, settings, monkeypatch):
    async def run(manager):
        limits.append(await manager.in_database(read_idle_transaction_limit))
        await manager.in_database(connections.close_all)
        manager._database.shutdown()

    limits = []
    settings.LEASE_SECONDS = 7
    monkeypatch.setattr(Manager, "run", run)

    call_command("run_conversation_manager")

    assert limits == ["7s"]
