"""Prepared SQL statements with named and positional parameters."""

import pytest
from django.db import connection
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
