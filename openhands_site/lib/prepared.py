"""The few hot statements, sent past Django's cursor: parameters travel in binary and the plan is kept.

Django writes parameters into the text of a statement. For a hundred events that costs seven times the CPU of
binary arrays, and the server parses and plans it anew each time (docs/adr/0030). Everything else stays with Django.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from django.db import connection
from psycopg.types.datetime import TimestamptzLoader


def fetch(
    statement: str, parameters: Sequence[Any] | Mapping[str, Any], *, is_binary: bool = False
) -> list[tuple]:
    """Run one statement on this thread's connection, inside its transaction if there is one; its rows.

    Placeholders are psycopg's: ``%s`` or ``%(name)s``, and ``%b`` for binary. Raises Django's database errors. With
    ``is_binary`` the rows come in binary too.
    """
    connection.ensure_connection()
    started = time.perf_counter()
    with (
        connection.wrap_database_errors,
        psycopg.Cursor(connection.connection) as cursor,
    ):
        # Django's own loader of timestamps is Python around the driver's: a third of what a page of events costs.
        cursor.adapters.register_loader("timestamptz", TimestamptzLoader)
        cursor.execute(statement, parameters, binary=is_binary)
        rows = cursor.fetchall()
    if connection.queries_logged:
        taken = f"{time.perf_counter() - started:.3f}"
        connection.queries_log.append({"sql": statement, "time": taken})
    return rows
