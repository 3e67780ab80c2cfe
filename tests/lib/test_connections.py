"""A thread's persistent database connection: it is reused between requests and replaced after it was closed."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.signals import request_finished
from django.db import connection, connections

from lib.connections import PersistentConnection

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
