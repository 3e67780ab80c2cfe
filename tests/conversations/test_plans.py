"""Query plans of the most frequent statements: each uses the index made for it."""

import json

import pytest
from django.db import connection

from conversations.models import NewEvent
from conversations.models.append import FENCED
from conversations.realtime import reading

LOGS, LENGTH = 40, 250


@pytest.fixture
def long_log(conversation):
    """Return a conversation with 10,000 events, enough for PostgreSQL to prefer an index."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_indexscan = on")
    conversation.append(*[NewEvent(f"e{n}", "Step", "agent", "{}") for n in range(LOGS * LENGTH)])
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE conversations_event, conversations_conversation")
    return conversation


def iterate_nodes(plan):
    yield plan
    for part in plan.get("Plans", ()):
        yield from iterate_nodes(part)


def explain(statement, parameters):
    text = statement.replace("%b", "%s")
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) {text}", parameters)
        [(value,)] = cursor.fetchall()
    return list(iterate_nodes((json.loads(value) if isinstance(value, str) else value)[0]["Plan"]))


def select_nodes(table, plan):
    return [node for node in plan if node.get("Relation Name") == table]


def test_read_after_a_nudge_uses_the_index_on_conversation_and_seq(long_log):
    plan = explain(reading._statement(), [[str(long_log.pk)], [LOGS * LENGTH - 3], 200, 4_194_304])

    [scan] = select_nodes("conversations_event", plan)
    assert (scan["Node Type"], scan["Index Name"]) == ("Index Scan", "event_seq_unique")
    assert not [node for node in plan if node["Node Type"] == "Sort" and node["Plan Rows"] > 1_000]


def test_append_does_not_read_the_event_table(long_log):
    empty = [["x"], ["Step"], ["agent"], ["{}"], [1], [None]]
    at = long_log.updated_at

    plan = explain(FENCED, [1, 0, at, str(long_log.pk), 1, -1, at, *empty])

    assert [node["Node Type"] for node in select_nodes("conversations_event", plan)] == [
        "ModifyTable"
    ]


def test_event_table_has_only_the_three_required_indexes(db):
    with connection.cursor() as cursor:
        constraints = connection.introspection.get_constraints(cursor, "conversations_event")

    indexes = {name for name, info in constraints.items() if info["index"] or info["unique"]}
    assert indexes == {"conversations_event_pkey", "event_seq_unique", "event_id_unique"}
