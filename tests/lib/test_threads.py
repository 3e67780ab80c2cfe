import contextvars
import threading

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections

from lib.threads import DatabaseThreads

pytestmark = pytest.mark.django_db(transaction=True)
name = contextvars.ContextVar("name", default="nobody")


@pytest.fixture
async def pool():
    pool = DatabaseThreads("test", 1)
    yield pool
    pool.shutdown()
    await sync_to_async(connections.close_all)()


def ask():
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return connection.connection


async def test_connection_is_given_back_after_each_call(pool):
    used = await pool.run(ask)

    assert used.closed


async def test_connection_is_given_back_when_the_call_fails(pool):
    used = []

    def fail():
        used.append(ask())
        raise LookupError("no row")

    with pytest.raises(LookupError, match="no row"):
        await pool.run(fail)
    assert used[0].closed


async def test_kept_connection_serves_the_next_call():
    pool = DatabaseThreads("test", 1, keep_connections=True)

    first, second = await pool.run(ask), await pool.run(ask)

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
