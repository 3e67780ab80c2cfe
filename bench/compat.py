"""The benchmark of the compatible REST reads, each beside the native route that does the same work.

The rows are the usual ones of a coding agent: a log has messages, actions with their results, and changes of state.
Both routes of a pair are measured in alternation on one server, by the processor time of the web process.
"""

import json
import statistics
from typing import Any

from django.db import connection
from django.test import Client
from rest_framework.test import APIClient

from accounts.models import User
from bench import load, report, rest
from bench.webs import Web, web
from conversations.models import Conversation

SIZES = (1_000, 10_000)
REACH = ">= 0.8 of the native route"
ROUNDS, SECONDS = 5, 0.5
Pair = tuple[str, str, str]
"""The name of a pair, the path of the compatible route, and the path of the native route."""
STATS = {"usage_to_metrics": {"agent": {"model_name": "demo", "accumulated_cost": 0.0125}}}
TEXT = "x" * 200


def run() -> list[dict[str, Any]]:
    """Return two figures per route, for an API key and for a browser's session, with the queries of a request."""
    figures = []
    with web(RATE_LIMITS="address=10000000/m,read=10000000/m") as server:
        for size in SIZES:
            user, key = rest.create_owner(size)
            pairs = list_pairs(user, size)
            with connection.cursor() as cursor:
                cursor.execute("ANALYZE")
            bearer, cookie = {"Authorization": f"Bearer {key}"}, _sign_in(user)
            figures += [_measure(server, pair, bearer, "key") for pair in pairs]
            if size == SIZES[0]:
                figures += [_measure(server, pair, cookie, "session") for pair in pairs]
    return figures


def list_pairs(user: User, size: int) -> list[Pair]:
    """Create a log of ``size`` events and return the pairs to measure. The names end with the size."""
    log = create_log(user, size)
    ids = "&".join(f"ids={pk.hex}" for pk in _newest(user))
    native, v0, v1 = (
        f"/api/v1/conversations/{log}",
        f"/api/conversations/{log}",
        "/api/v1/events/search",
    )
    middle = size // 2
    pk = user.personal_organization.event_set.get(conversation_id=log, seq=middle).pk
    page, last = (
        f"{native}/events?after={middle}&limit=100",
        f"{native}/events?before={size}&limit=100",
    )
    first = f"{native}/events?limit=100"
    search = f"{v1}?conversation_id__eq={log}&limit=100"
    pairs = [
        ("V0 list", "/api/conversations?limit=20", "/api/v1/conversations?limit=20"),
        ("V1 list", "/api/v1/app-conversations/search?limit=20", "/api/v1/conversations?limit=20"),
        ("V1 by ids", f"/api/v1/app-conversations?{ids}", "/api/v1/conversations?limit=20"),
        ("V0 record", v0, native),
        ("V0 events, first page", f"{v0}/events?start_id=0&limit=100", first),
        ("V0 events, a later page", f"{v0}/events?start_id={middle + 1}&limit=100", page),
        ("V0 events, reverse", f"{v0}/events?reverse=true&limit=100", last),
        ("V1 events, first page", search, first),
        ("V1 events, a later page", f"{search}&page_id={pk}", page),
        ("V1 events, reverse", f"{search}&sort_order=TIMESTAMP_DESC", last),
        ("engine's events", f"{v0}/events/search?limit=100", first),
    ]
    if size == SIZES[0]:
        pairs.insert(0, ("settings", "/api/settings", "/api/v1/settings"))
    return [(f"{name}/{size}", ours, reference) for name, ours, reference in pairs]


def create_log(user: User, size: int) -> Any:
    """Create a conversation with ``size`` events of an agent's usual work, and return its id."""
    conversation = Conversation.objects.create(
        organization=user.personal_organization,
        created_by=user,
        title="Long",
        model="demo",
        status="paused",
        last_seq=size,
    )
    head = {"timestamp": "2026-11-22T10:00:00.123456"}
    call = {"tool_name": "terminal", "tool_call_id": "call_1", "llm_response_id": "r1"}
    action = {"kind": "TerminalAction", "command": f"echo {TEXT}", "is_input": False}
    result = {
        "kind": "TerminalObservation",
        "command": "echo",
        "content": [{"type": "text", "text": TEXT}],
        "metadata": {"exit_code": 0, "working_dir": "/workspace"},
    }
    text = [{"type": "text", "text": TEXT}]
    # The turn of a log, which is repeated: {n} is the seq of the event, and {p} that of the event before it.
    turn = [
        ("ConversationStateUpdateEvent", "environment", {"key": "stats", "value": STATS}),
        (
            "ActionEvent",
            "agent",
            {"thought": text, "action": action, "security_risk": "LOW"} | call,
        ),
        ("ObservationEvent", "environment", {"observation": result, "action_id": "e{p}"} | call),
        (
            "ActionEvent",
            "agent",
            {"thought": text, "action": action, "security_risk": "LOW"} | call,
        ),
        ("ObservationEvent", "environment", {"observation": result, "action_id": "e{p}"} | call),
        ("MessageEvent", "agent", {"llm_message": {"role": "assistant", "content": text}}),
    ]
    kinds, sources, payloads = [], [], []
    for kind, source, fields in turn:
        kinds.append(kind)
        sources.append(source)
        payloads.append(
            json.dumps({"id": "e{n}"} | head | {"source": source} | fields | {"kind": kind})
        )
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO conversations_event (organization_id, conversation_id, seq, event_id, kind, source, payload,"
            " received_at) SELECT %s, %s, n, 'e' || n, (%s::text[])[n %% 6 + 1], (%s::text[])[n %% 6 + 1],"
            " replace(replace((%s::text[])[n %% 6 + 1], '{n}', n::text), '{p}', (n - 1)::text), now()"
            " FROM generate_series(1, %s) n",
            [user.personal_organization.pk, conversation.pk, kinds, sources, payloads, size],
        )
    return conversation.pk


def _newest(user: User) -> list[Any]:
    rows = Conversation.objects.filter(created_by=user).order_by("-created_at")
    return list(rows.values_list("pk", flat=True)[:20])


def _sign_in(user: User) -> dict[str, str]:
    """Return the header with the session cookie of a signed-in browser."""
    client = Client()
    client.force_login(user)
    return {"Cookie": "; ".join(f"{name}={value.value}" for name, value in client.cookies.items())}


def _measure(server: Web, pair: Pair, headers: dict[str, str], caller: str) -> dict[str, Any]:
    name, ours, reference = pair
    results: dict[str, list[load.Load]] = {ours: [], reference: []}
    for path in results:
        load.run(server.pid, server.url + path, seconds=0.3, headers=headers)
    for _ in range(ROUNDS):  # in alternation, so that other load on the machine affects both
        for path, loads in results.items():
            loads.append(load.run(server.pid, server.url + path, seconds=SECONDS, headers=headers))
    own, native = (statistics.median(each.per_core for each in loads) for loads in results.values())
    queries, native_queries = (count_queries(path, headers) for path in results)
    return report.figure(
        "compat",
        f"{name}, {caller}",
        own,
        native,
        unit="requests/s of one core",
        reach=REACH,
        queries=queries,
        native_queries=native_queries,
    )


def count_queries(path: str, headers: dict[str, str]) -> int:
    """Return the number of database queries of a request."""
    client = APIClient(headers={"Host": "127.0.0.1"} | headers)
    return len(rest.list_queries(client, path))
