import pytest
from django.db import connection
from django.db.utils import DatabaseError

from lib import prepared

pytestmark = pytest.mark.django_db


def test_a_name_may_stand_at_several_places_and_a_percent_sign_beside_it():
    statement = "SELECT %(b)s::int, %(a)s::text, %(b)s::int + 1, 7 %% 4, 'x' LIKE '%%x'"

    assert prepared.fetch(statement, {"a": "%(b)s", "b": 5, "unused": 0}) == [
        (5, "%(b)s", 6, 3, True)
    ]


def test_places_without_names_go_by_their_order_and_may_be_binary():
    assert prepared.fetch("SELECT %s::int, %b::text[]", [1, ["a"]]) == [(1, ["a"])]


def test_a_missing_value_and_a_bad_statement_are_told():
    with pytest.raises(KeyError):
        prepared.fetch("SELECT %(a)s::int", {})
    with pytest.raises(DatabaseError):
        prepared.fetch("SELECT nothing", {})


def test_what_it_runs_is_counted_like_djangos_queries(django_assert_num_queries):
    with django_assert_num_queries(1):
        prepared.fetch("SELECT %(a)s::int", {"a": 1})


def test_it_takes_part_in_the_transaction():
    prepared.fetch("SELECT set_config('app.odd', %(a)s, true)", {"a": "here"})

    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('app.odd')")
        assert cursor.fetchone() == ("here",)
