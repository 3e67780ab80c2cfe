"""The hot statements use the indexes that are there for them, whatever else the tables hold."""

import json

import pytest
from django.db import connection

from conversations.models import NewEvent
from conversations.models.append import FENCED
from conversations.realtime import reading

LOGS, LENGTH = 40, 250


@pytest.fixture
def many(conversation):
    """A table that is worth an index: ten thousand events."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_indexscan = on")
    conversation.append(*[NewEvent(f"e{n}", "Step", "agent", "{}") for n in range(LOGS * LENGTH)])
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE conversations_event, conversations_conversation")
    return conversation


def nodes(plan):
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def plan_of(statement, parameters):
    text = statement.replace("%b", "%s")
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) {text}", parameters)
        [(found,)] = cursor.fetchall()
    return list(nodes((json.loads(found) if isinstance(found, str) else found)[0]["Plan"]))


def on(table, plan):
    return [node for node in plan if node.get("Relation Name") == table]


def test_a_nudge_reads_events_by_conversation_and_seq_alone(many):
    plan = plan_of(reading._statement(), [[str(many.pk)], [LOGS * LENGTH - 3], 200, 4_194_304])

    [scan] = on("conversations_event", plan)
    assert (scan["Node Type"], scan["Index Name"]) == ("Index Scan", "event_seq_unique")
    assert not [node for node in plan if node["Node Type"] == "Sort" and node["Plan Rows"] > 1_000]


def test_an_append_looks_nothing_up_in_the_log(many):
    empty = [["x"], ["Step"], ["agent"], ["{}"], [1], [None]]
    at = many.updated_at

    plan = plan_of(FENCED, [1, 0, at, str(many.pk), 1, -1, at, *empty])

    assert [node["Node Type"] for node in on("conversations_event", plan)] == ["ModifyTable"]


def test_the_log_has_no_index_that_nobody_reads(db):
    with connection.cursor() as cursor:
        names = connection.introspection.get_constraints(cursor, "conversations_event")

    indexes = {name for name, found in names.items() if found["index"] or found["unique"]}
    assert indexes == {"conversations_event_pkey", "event_seq_unique", "event_id_unique"}
