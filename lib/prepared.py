"""Execution of frequent SQL statements as prepared statements, without Django's cursor.

Django inserts parameters into the text of a statement, so PostgreSQL parses and plans every execution. This module
sends the parameters separately from the text. After two executions on a connection (``prepare_threshold``) psycopg
prepares the statement, so PostgreSQL parses it only once. Large parameters can be sent in PostgreSQL's binary format,
such as one binary array per column of a hundred new events, which takes a seventh of the CPU time (ADR 11).
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
    statement: str, parameters: Sequence[Any] | Mapping[str, Any], *, binary_rows: bool = False
) -> list[tuple[Any, ...]]:
    """Run one statement on this thread's connection, in the current transaction if there is one, and return its rows.

    A sequence of parameters is for statements with binary arrays, such as appending events: its placeholders are
    ``%s``, or ``%b`` for the binary format. A mapping is for compiled querysets: its placeholders are ``%(name)s``.
    Write a percent sign as ``%%`` in both. ``binary_rows`` transfers the rows in the binary format. The statement must
    return rows (use ``RETURNING``). Django's ``connection.execute_wrapper`` functions are not called. Raise Django's
    database errors.
    """
    cursor_class: type[psycopg.Cursor] = psycopg.Cursor
    text = statement
    if isinstance(parameters, Mapping):
        # RawCursor takes PostgreSQL's own placeholders, so psycopg does not convert the text for each execution.
        cursor_class = psycopg.RawCursor
        text, names = _number_placeholders(statement)
        parameters = [parameters[name] for name in names]
    connection.ensure_connection()
    started = time.perf_counter()
    with (
        connection.wrap_database_errors,
        cursor_class(connection.connection) as cursor,
    ):
        # Django's loader of timestamps wraps psycopg's loader in Python, which takes a third of the time of reading a
        # page of rows. The loader is registered on this cursor only, so Django's own cursors keep theirs.
        cursor.adapters.register_loader("timestamptz", TimestamptzLoader)
        cursor.execute(text, parameters, binary=binary_rows)
        rows = cursor.fetchall()
    # As Django's own cursor does; tests that count queries rely on it.
    if connection.queries_logged:
        seconds = f"{time.perf_counter() - started:.3f}"
        connection.queries_log.append({"sql": statement, "time": seconds})
    return rows


@lru_cache(maxsize=256)
def _number_placeholders(statement: str) -> tuple[str, list[str]]:
    """Replace ``%(name)s`` by PostgreSQL's placeholders (``$1``). Return the text, and the names by number.

    Cached here, because psycopg does not cache the conversion of statements above 4,096 characters, and a conversion
    takes as long as a small query.
    """
    names: list[str] = []

    def replace(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    return _PLACEHOLDER.sub(replace, statement), names
