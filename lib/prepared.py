"""The few hot statements, sent past Django's cursor: parameters travel in binary and the plan is kept.

Django writes parameters into the text of a statement. For a hundred events that costs seven times the CPU of
binary arrays, and the server parses and plans it anew each time (docs/adr/0030). Everything else stays with Django.
"""

import re
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import psycopg
from django.db import connection
from psycopg.types.datetime import TimestamptzLoader

_PLACEHOLDER = re.compile(r"%%|%\((\w+)\)s")


def fetch(
    statement: str, parameters: Sequence[Any] | Mapping[str, Any], *, is_binary: bool = False
) -> list[tuple[Any, ...]]:
    """Run one statement on this thread's connection, inside its transaction if there is one; its rows.

    Placeholders are psycopg's: ``%s`` or ``%(name)s``, and ``%b`` for binary. Raises Django's database errors. With
    ``is_binary`` the rows come in binary too.
    """
    kind: type[psycopg.Cursor] = psycopg.Cursor
    text = statement
    if isinstance(parameters, Mapping):
        kind = psycopg.RawCursor
        text, names = _numbered(statement)
        parameters = [parameters[name] for name in names]
    connection.ensure_connection()
    started = time.perf_counter()
    with (
        connection.wrap_database_errors,
        kind(connection.connection) as cursor,
    ):
        # Django's own loader of timestamps is Python around the driver's: a third of what a page of events costs.
        cursor.adapters.register_loader("timestamptz", TimestamptzLoader)
        cursor.execute(text, parameters, binary=is_binary)
        rows = cursor.fetchall()
    if connection.queries_logged:
        taken = f"{time.perf_counter() - started:.3f}"
        connection.queries_log.append({"sql": statement, "time": taken})
    return rows


@lru_cache(maxsize=256)
def _numbered(statement: str) -> tuple[str, list[str]]:
    """A statement with PostgreSQL's own ``$1``, and the names for them in order.

    The driver would take one of more than 4,096 characters apart anew each time, which costs as much as a small query.
    """
    names: list[str] = []

    def place(found: re.Match[str]) -> str:
        if found[0] == "%%":
            return "%"
        if found[1] not in names:
            names.append(found[1])
        return f"${names.index(found[1]) + 1}"

    return _PLACEHOLDER.sub(place, statement), names
