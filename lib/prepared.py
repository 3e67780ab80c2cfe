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
from django.db import DEFAULT_DB_ALIAS, connections
from psycopg.types.datetime import TimestamptzLoader

MAX_CURSORS = 256
"""The maximum number of statements for which a connection keeps a cursor."""
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
    cursor_class: type[_Kept | _KeptRaw] = _Kept
    text = statement
    if isinstance(parameters, Mapping):
        # RawCursor takes PostgreSQL's own placeholders, so psycopg does not convert the text for each execution.
        cursor_class = _KeptRaw
        text, names = _number_placeholders(statement)
        parameters = [parameters[name] for name in names]
    # Each attribute of ``django.db.connection`` would look up this thread's connection again.
    connection = connections[DEFAULT_DB_ALIAS]
    connection.ensure_connection()
    started = time.perf_counter()
    with connection.wrap_database_errors:
        cursor = _find_cursor(connection, cursor_class, text, binary_rows)
        try:
            try:
                cursor.execute(text, parameters, binary=binary_rows)
            except psycopg.errors.FeatureNotSupported:
                if not _forget_plans(connection.connection):
                    raise
                cursor.execute(text, parameters, binary=binary_rows)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
        finally:
            cursor.drop_rows()
    # As Django's own cursor does; tests that count queries rely on it.
    if connection.queries_logged:
        seconds = f"{time.perf_counter() - started:.3f}"
        connection.queries_log.append({"sql": statement, "time": seconds})
    return rows


def _forget_plans(link: Any) -> bool:
    """Discard a connection's prepared statements, so that the failed one can run again; return False in a transaction.

    A statement fails with "cached plan must not change result type" if a migration has changed the type of a column
    since it was prepared. In a transaction, psycopg discards the statements at the rollback.
    """
    if link.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        return False
    link.execute("DEALLOCATE ALL")
    return True


class _Droppable:
    """The part of both kinds of cursors that frees the memory of the last execution."""

    _tx: Any
    _reset: Any

    def drop_rows(self) -> None:
        """Forget the rows and the parameters of the last execution. The next one can follow."""
        self._reset()
        self._tx.set_pgresult(None)


class _Kept(_Droppable, psycopg.Cursor):
    """A cursor for placeholders ``%s`` and ``%b`` that a connection keeps for a statement."""


class _KeptRaw(_Droppable, psycopg.RawCursor):
    """A cursor for placeholders ``$1`` that a connection keeps for a statement."""


def _find_cursor(wrapper: Any, kind: type[_Kept | _KeptRaw], text: str, binary: bool) -> Any:  # noqa: FBT001
    """Return the cursor that Django's connection ``wrapper`` keeps for a statement, created at the first call.

    A new cursor looks up the converters of all parameters and columns again, which takes longer than a small query.
    Only one thread uses a wrapper, and a statement ends before the next one begins.
    """
    link = wrapper.connection
    # Not an attribute of psycopg's connection: a cursor refers to its connection, so a former connection would stay in
    # memory until the next garbage collection.
    cursors: dict[Any, Any]
    owner, cursors = vars(wrapper).get("kept_cursors") or (None, {})
    if owner is not link:
        cursors = {}
        wrapper.kept_cursors = link, cursors
    key = kind, text, binary
    cursor = cursors.get(key)
    if cursor is None:
        if len(cursors) >= MAX_CURSORS:
            cursors.clear()
        cursor = cursors[key] = kind(link)
        # Django's loader of timestamps wraps psycopg's loader in Python, which takes a third of the time of reading a
        # page of rows. The loader is registered on this cursor only, so Django's own cursors keep theirs.
        cursor.adapters.register_loader("timestamptz", TimestamptzLoader)
    return cursor


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
