"""Prepared SQL statements with named and positional parameters."""

import weakref
from datetime import UTC, datetime

import pytest
from django.db import DEFAULT_DB_ALIAS, connection, connections, transaction
from django.db.utils import DatabaseError

from lib import prepared

pytestmark = pytest.mark.django_db


def test_named_parameter_may_occur_twice_beside_literal_percent_signs():
    statement = "SELECT %(b)s::int, %(a)s::text, %(b)s::int + 1, 7 %% 4, 'x' LIKE '%%x'"

    assert prepared.fetch(statement, {"a": "%(b)s", "b": 5, "unused": 0}) == [
        (5, "%(b)s", 6, 3, True)
    ]


def test_positional_parameters_may_be_binary():
    assert prepared.fetch("SELECT %s::int, %b::text[]", [1, ["a"]]) == [(1, ["a"])]


def test_missing_parameter_and_invalid_statement_raise():
    with pytest.raises(KeyError):
        prepared.fetch("SELECT %(a)s::int", {})
    with pytest.raises(DatabaseError):
        prepared.fetch("SELECT nothing", {})


def test_prepared_statement_is_counted_as_a_query(django_assert_num_queries):
    with django_assert_num_queries(1):
        prepared.fetch("SELECT %(a)s::int", {"a": 1})


def test_prepared_statement_runs_in_the_current_transaction():
    prepared.fetch("SELECT set_config('app.odd', %(a)s, true)", {"a": "here"})

    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('app.odd')")
        assert cursor.fetchone() == ("here",)


def test_statement_runs_again_with_other_types_and_after_an_error():
    statement = "SELECT %(a)s::text, 10 / %(b)s::int"

    assert prepared.fetch(statement, {"a": "x", "b": 5}) == [("x", 2)]
    with pytest.raises(DatabaseError), transaction.atomic():
        prepared.fetch(statement, {"a": "x", "b": 0})
    assert prepared.fetch(statement, {"a": None, "b": 2**33 // 2**33}) == [(None, 10)]


def test_connection_keeps_a_cursor_without_rows_and_parameters(monkeypatch):
    monkeypatch.setattr(prepared, "MAX_CURSORS", 3)
    for number in range(10):
        assert prepared.fetch(f"SELECT %s::int + {number}", [1]) == [(number + 1,)]

    _, kept = connections[DEFAULT_DB_ALIAS].kept_cursors
    assert 1 <= len(kept) <= 3
    assert [(cursor.pgresult, cursor._query, cursor.rowcount) for cursor in kept.values()] == [
        (None, None, -1)
    ] * len(kept)


def test_time_is_read_in_utc_by_kept_and_by_new_cursors():
    moment = datetime(2026, 11, 29, 10, 0, tzinfo=UTC)

    for _ in range(4):
        assert prepared.fetch("SELECT %(at)s::timestamptz", {"at": moment}) == [(moment,)]
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::timestamptz", [moment])
        assert cursor.fetchone() == (moment,)


def test_cursors_of_a_closed_connection_are_dropped_at_the_next_statement():
    wrapper = connection.copy()

    def run():
        wrapper.ensure_connection()
        cursor = prepared._find_cursor(wrapper, prepared._KeptRaw, "SELECT 1", False)
        return cursor.execute("SELECT 1").fetchall()

    try:
        assert run() == [(1,)]
        former = weakref.ref(wrapper.connection)
        wrapper.close()
        assert run() == [(1,)]
        assert former() is None
    finally:
        wrapper.close()


@pytest.fixture
def changing_table(transactional_db):
    """A table whose column ``a`` gets another type, by another connection, when the fixture is called."""
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute("CREATE TABLE changing (a varchar(10))")
        cursor.execute("INSERT INTO changing VALUES ('x')")

    def change():
        with other.cursor() as cursor:
            cursor.execute("ALTER TABLE changing ALTER a TYPE varchar(20)")

    yield change
    with other.cursor() as cursor:
        cursor.execute("DROP TABLE changing")
    other.close()


STATEMENT = "SELECT a FROM changing WHERE a = %(a)s"


def test_statement_runs_after_a_migration_changed_the_type_of_a_column(changing_table):
    for _ in range(4):  # psycopg has prepared it then
        assert prepared.fetch(STATEMENT, {"a": "x"}) == [("x",)]

    changing_table()

    for _ in range(4):
        assert prepared.fetch(STATEMENT, {"a": "x"}) == [("x",)]


def test_changed_type_fails_one_transaction_only(changing_table):
    for _ in range(4):
        prepared.fetch(STATEMENT, {"a": "x"})

    changing_table()

    with pytest.raises(DatabaseError, match="cached plan"), transaction.atomic():
        prepared.fetch(STATEMENT, {"a": "x"})
    with transaction.atomic():
        assert prepared.fetch(STATEMENT, {"a": "x"}) == [("x",)]
