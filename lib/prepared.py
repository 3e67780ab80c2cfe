"""Execution of frequent SQL statements without Django's cursor, with server-side parameters and cached plans.

Django inserts parameters into the text of a statement, so PostgreSQL parses and plans each statement again. For a
hundred events this takes seven times the CPU of binary arrays (docs/adr/0011). All other statements use Django.
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
    """Run one statement on this thread's connection, in its current transaction if any, and return its rows.

    Placeholders are those of psycopg: ``%s`` or ``%(name)s``, and ``%b`` for binary. With ``is_binary`` the rows are
    transferred in binary too. Raise Django's database errors.
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
        # Django's loader of timestamps wraps the driver's loader in Python, which is a third of the cost of a page.
        cursor.adapters.register_loader("timestamptz", TimestamptzLoader)
        cursor.execute(text, parameters, binary=is_binary)
        rows = cursor.fetchall()
    if connection.queries_logged:
        seconds = f"{time.perf_counter() - started:.3f}"
        connection.queries_log.append({"sql": statement, "time": seconds})
    return rows


@lru_cache(maxsize=256)
def _numbered(statement: str) -> tuple[str, list[str]]:
    """Return a statement with PostgreSQL's placeholders (``$1``), and the names of the parameters in their order.

    psycopg does not cache the conversion of statements above 4,096 characters, and converting one takes as long as a
    small query.
    """
    names: list[str] = []

    def replace(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    return _PLACEHOLDER.sub(replace, statement), names
