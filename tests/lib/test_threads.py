"""Thread pools for database work: connections, context variables and exceptions."""

import contextvars
import threading

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections

from lib.threads import DatabaseThreads

pytestmark = pytest.mark.django_db(transaction=True)
name = contextvars.ContextVar("name", default="no name")


@pytest.fixture
async def pool():
    pool = DatabaseThreads("test", 1)
    yield pool
    pool.shutdown()
    await sync_to_async(connections.close_all)()


def query_database():
    """Run a query; return the connection that it used."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return connection.connection


async def test_connection_is_closed_after_each_call(pool):
    used = await pool.run(query_database)

    assert used.closed


async def test_connection_is_closed_after_a_failed_call(pool):
    used = []

    def fail():
        used.append(query_database())
        raise LookupError("no row")

    with pytest.raises(LookupError, match="no row"):
        await pool.run(fail)
    assert used[0].closed


async def test_pool_that_keeps_connections_reuses_them():
    pool = DatabaseThreads("test", 1, keep_connections=True)

    first, second = await pool.run(query_database), await pool.run(query_database)

    assert first is second
    assert not first.closed
    await pool.run(connections.close_all)
    pool.shutdown()


async def test_call_runs_in_the_context_of_its_caller(pool):
    name.set("Alice")

    assert await pool.run(name.get) == "Alice"


async def test_calls_run_in_threads_of_the_pool(pool):
    thread = await pool.run(threading.current_thread)

    assert thread is not threading.current_thread()
    assert thread.name.startswith("test")
