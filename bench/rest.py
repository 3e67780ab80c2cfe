"""The benchmark of REST reads with an API key, compared with a minimal Django view that runs the same SQL."""

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
from django.db import connection
from django.test import Client
from rest_framework.test import APIClient

from accounts import services as accounts
from accounts.models import User
from accounts.services import user_settings
from bench import load, report
from bench.webs import Web, web
from conversations.models import Conversation
from lib import prepared

IS_FULL = "--full" in sys.argv
"""Whether to use the large tables. With the small tables, the benchmark takes about a minute."""
SIZES = (100, 1_000, 10_000, 100_000) if IS_FULL else (1_000, 20_000)
LOGS = (1_000, 10_000, 100_000, 1_000_000) if IS_FULL else (1_000, 100_000)
ROUNDS, SECONDS = (3, 1.0) if IS_FULL else (3, 0.7)
Route = tuple[str, str, str]
GOALS = {"list": ">= 0.75", "events": ">= 0.75"} | dict.fromkeys(
    ("record", "me", "settings"), ">= 0.6"
)


def run() -> list[dict]:
    """Return one figure per route and size: the requests per second of one core, ours and of the reference."""
    routes = fill_database()
    return compare(routes) + compress([routes[0], routes[len(SIZES)]])


def fill_database() -> list[Route]:
    """Fill the tables and return the routes to measure: name, path and API key."""
    owners = [create_owner(size) for size in SIZES]
    user, key = owners[0]
    logs = [(_log(user, size), size) for size in LOGS]
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    lists = [
        (f"list/{size}", "/api/v1/conversations?limit=20", owner[1])
        for owner, size in zip(owners, SIZES, strict=True)
    ]
    pages = [
        (f"events/{size}", f"/api/v1/conversations/{pk}/events?after={size // 2}&limit=100", key)
        for pk, size in logs
    ]
    record = ("record", f"/api/v1/conversations/{logs[0][0]}", key)
    settings = ("settings", "/api/v1/settings", _chooser())
    return [*lists, *pages, record, ("me", "/api/v1/users/me", key), settings]


def compare(routes: list[Route]) -> list[dict[str, Any]]:
    """Measure each route and its reference."""
    with tempfile.TemporaryDirectory() as folder:
        queries = Path(folder) / "queries.json"
        queries_by_name = {name.replace("/", "-"): _queries(url, key) for name, url, key in routes}
        queries.write_text(
            json.dumps({name: statements[1:] for name, statements in queries_by_name.items()})
        )
        quiet = {
            "RATE_LIMITS": os.environ.get("BENCH_RATE_LIMITS", "address=10000000/m,read=10000000/m")
        }
        with (
            web(**quiet) as ours,
            web(settings="bench.bare_settings", BENCH_QUERIES=str(queries)) as bare,
        ):
            return _flatness(
                [
                    _measure(ours, bare, route, len(queries_by_name[route[0].replace("/", "-")]))
                    for route in routes
                ]
            )


def compress(routes: list[Route]) -> list[dict[str, Any]]:
    """Measure routes for clients that accept gzip; the reference is the same server for clients that do not."""
    figures = []
    with web(RATE_LIMITS="address=10000000/m,read=10000000/m") as server:
        for name, url, key in routes:
            rates: dict[str, list[float]] = {"gzip": [], "identity": []}
            for _ in range(ROUNDS):
                for encoding, results in rates.items():
                    headers = {"Authorization": f"Bearer {key}", "Accept-Encoding": encoding}
                    result = load.run(
                        server.pid, server.url + url, seconds=SECONDS, headers=headers
                    )
                    results.append(1000 / result.cpu_ms)
            own, plain = (statistics.median(results) for results in rates.values())
            unit = "requests/s of one core"
            figures.append(report.figure("rest", f"{name}, compressed", own, plain, unit=unit))
    return figures


def _measure(ours: Web, bare: Web, route: Route, queries: int) -> dict[str, Any]:
    name, url, key = route
    headers = {"Authorization": f"Bearer {key}"}
    reference = f"{bare.url}/rows/{name.replace('/', '-')}"
    load.run(ours.pid, ours.url + url, seconds=0.3, headers=headers)
    load.run(bare.pid, reference, seconds=0.3)
    our_results, bare_results = [], []
    for _ in range(ROUNDS):  # in alternation, so that other load on the machine affects both
        our_results.append(load.run(ours.pid, ours.url + url, seconds=SECONDS, headers=headers))
        bare_results.append(load.run(bare.pid, reference, seconds=SECONDS))
    own = statistics.median(result.cpu_ms for result in our_results)
    other = statistics.median(result.cpu_ms for result in bare_results)
    kind = name.partition("/")[0]
    return report.figure(
        "rest",
        name,
        1000 / own,
        1000 / other,
        unit="requests/s of one core",
        reach=GOALS[kind],
        queries=queries,
        cpu_ms=round(own, 3),
        bare_cpu_ms=round(other, 3),
        requests_per_second=round(statistics.median(result.per_second for result in our_results)),
        bare_per_second=round(statistics.median(result.per_second for result in bare_results)),
    )


def _flatness(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each figure the CPU time relative to the figure for a thousand rows."""
    thousand = {
        f["what"].partition("/")[0]: f["cpu_ms"] for f in figures if f["what"].endswith("/1000")
    }
    for figure in figures:
        kind, _, size = figure["what"].partition("/")
        if size and kind in thousand:
            figure["of_1000"] = round(figure["cpu_ms"] / thousand[kind], 2)
    return figures


def _queries(url: str, key: str) -> list[str]:
    """Return the SQL statements of a request in their order. The first one looks up the API key."""
    return list_queries(
        APIClient(headers={"Authorization": f"Bearer {key}", "Host": "127.0.0.1"}), url
    )


def list_queries(client: Client, url: str) -> list[str]:
    """Return the SQL statements of a client's request in their order."""
    statements: list[str] = []
    fetch = prepared.fetch

    def record_fetch(statement: str, parameters: Any, **options: Any) -> Any:
        connection.ensure_connection()
        with psycopg.ClientCursor(connection.connection) as cursor:
            statements.append(cursor.mogrify(statement, parameters))
        return fetch(statement, parameters, **options)

    def record(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:  # noqa: FBT001
        with psycopg.ClientCursor(connection.connection) as cursor:
            statements.append(cursor.mogrify(sql, params))
        return execute(sql, params, many, context)

    # ``prepared`` does not use Django's cursors, so it is patched too.
    with mock.patch.object(prepared, "fetch", record_fetch), connection.execute_wrapper(record):
        attempts = []
        # The first request also stores the last use of the key, and one every few seconds reads the maintenance switch.
        for _ in range(3):
            statements.clear()
            response = client.get(url)
            assert response.status_code == 200, response.content
            attempts.append(list(statements))
    return min(attempts, key=len)


def create_owner(size: int) -> tuple[User, str]:
    """Create a user with ``size`` conversations, each with usage and a finished start.

    Return the user and an API key.
    """
    user = accounts.create_user(email=f"rest-{time.time_ns()}@example.com")
    _, key = accounts.issue_api_key(user=user, name="bench")
    organization = user.personal_organization.pk
    fields = {
        "organization_id": organization,
        "created_by_id": user.pk,
        "title": "Fix the build",
        "model": "demo",
    }
    Conversation.objects.bulk_create(
        [Conversation(**fields, status="paused", last_seq=3) for _ in range(min(size, 100))]
    )
    with connection.cursor() as cursor:
        if size > 100:
            columns = [field.column for field in Conversation._meta.concrete_fields]  # noqa: SLF001
            values = {
                "id": "gen_random_uuid()",
                "created_at": "created_at - n * interval '1 minute'",
            }
            cursor.execute(
                f"INSERT INTO conversations_conversation ({', '.join(columns)}) "
                f"SELECT {', '.join(values.get(name, name) for name in columns)} "
                "FROM conversations_conversation, generate_series(1, %s) n WHERE created_by_id = %s",
                [size // 100 - 1, user.pk],
            )
        cursor.execute(
            "INSERT INTO billing_conversationusage (conversation_id, organization_id, calls, prompt_tokens,"
            " completion_tokens, cached_tokens, cost_micros)"
            " SELECT id, organization_id, 3, 1000, 200, 10, 4200 FROM conversations_conversation"
            " WHERE created_by_id = %s",
            [user.pk],
        )
        cursor.execute(
            "INSERT INTO conversations_starttask (id, organization_id, conversation_id, phase, phases, reason, error,"
            " attempts, created_at, updated_at, finished_at)"
            " SELECT gen_random_uuid(), organization_id, id, 'READY', '[]', 'created', '', 1, created_at, created_at,"
            " created_at FROM conversations_conversation WHERE created_by_id = %s",
            [user.pk],
        )
    return user, key


def _chooser() -> str:
    """Create a user whose settings and organization settings include secrets, and return an API key of the user."""
    user = accounts.create_user(email=f"rest-{time.time_ns()}@example.com")
    organization = user.personal_organization
    user_settings.change_organization_settings(
        organization=organization,
        values={
            "language": "fr",
            "max_iterations": 200,
            "search_api_key": "tvly-Shared-0123456789",
        },
        enforced=["max_iterations"],
    )
    server = {"url": "https://mcp.example.com/mcp", "api_key": "mcp-Key-0123456789"}
    own = {"git_user_name": "Ada", "git_user_email": "ada@example.com", "condenser_max_size": 120}
    user_settings.change_settings(
        user=user,
        organization=organization,
        values=own | {"mcp_config": {"shttp_servers": [server]}},
    )
    return accounts.issue_api_key(user=user, name="bench")[1]


def _log(user: User, size: int) -> Any:
    """Create a conversation with ``size`` events of about 400 bytes, and return its id."""
    conversation = Conversation.objects.create(
        organization=user.personal_organization,
        created_by=user,
        title="Long",
        model="demo",
        status="paused",
        last_seq=size,
    )
    payload = json.dumps({"kind": "MessageEvent", "text": "x" * 400})
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO conversations_event (organization_id, conversation_id, seq, event_id, kind, source, payload,"
            " received_at) SELECT %s, %s, n, 'e' || n, 'MessageEvent', 'agent', %s, now()"
            " FROM generate_series(1, %s) n",
            [user.personal_organization.pk, conversation.pk, payload, size],
        )
    return conversation.pk
