"""A thread's own connection: the same from request to request, a new one when PostgreSQL ended it."""

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


def backend(environ, start_response):
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        found = cursor.fetchone()[0]
    request_finished.send(sender=None)
    return found


def ask(thread):
    return thread.submit(PersistentConnection(backend), {}, None).result(30)


def test_is_kept_between_requests(thread, settings):
    settings.DATABASE_KEEP_SECONDS = 60
    assert ask(thread) == ask(thread)

    settings.DATABASE_KEEP_SECONDS = 0
    connection_of_the_test = connection.settings_dict["CONN_MAX_AGE"]
    assert connection_of_the_test == 0  # other threads go on as the settings say


def test_one_that_the_database_ended_is_replaced_before_it_fails_a_request(thread, settings):
    settings.DATABASE_KEEP_SECONDS = 60
    first = ask(thread)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [first])

    assert ask(thread) != first
