"""The authorization matrix: every API row of the policy and the socket, tried by everybody.

What is refused differs by reason: no caller is 401, no permission 403, and what somebody may not see does not
exist, 404. No answer to somebody who may not see it holds a byte of the owner's data. What each cell should be
follows from ``policy.py`` and the roles; the code under test is not asked.
"""

import time

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.db import connections
from rest_framework.test import APIClient

from accounts.roles import OPERATING, PERMISSIONS
from conversations.realtime import threads
from openhands_site.asgi import application
from tests.architecture.policy import POLICY
from tests.architecture.world import (
    CANARY,
    IDENTITIES,
    KEYS,
    NOBODY,
    ROLE_OF,
    SCOPES,
    build,
    held,
)
from tests.conftest import key_client

ROWS = [row for row, name in POLICY.items() if " /api/" in row and name in PERMISSIONS]
REFUSALS = (401, 403, 404)
IN_TEAM_BY_BODY = {
    "GET /api/v1/audit",
    "POST /api/v1/api-keys",
    "POST /api/v1/conversations",
    "GET /api/v1/model-calls",
    "GET /api/v1/usage",
    "GET /api/v1/usage/totals",
    "GET /api/v1/settings/model-access",
    "PUT /api/v1/settings/model-access",
    "DELETE /api/v1/settings/model-access",
    "POST /api/v1/settings/model-access/test",
}
"""Rows without an object that work in the organization that their body or query names."""


NOT_OF_TEAM = {
    "POST /api/v1/conversations": 400,  # a field of the body names the organization
    "GET /api/v1/audit": 403,  # for one that does not exist, too
}
"""What those outside the team get where it is not 404."""


def expected(row, identity, *, is_private):
    """The status that a cell must have: a refusal's, or None where the call is allowed."""
    name = POLICY[row]
    if identity in NOBODY:
        return 401
    if name in OPERATING:
        return 403  # nobody here runs the server
    if identity == "scoped key" and name not in SCOPES:
        return 403
    is_alice = ROLE_OF.get(identity) == "owner"
    if "/conversations/{id}" in row:
        if identity not in ROLE_OF or (is_private and not is_alice):
            return 404
        if "conversations.view" not in held(identity):
            return (
                403  # billing and auditor see that a shared one is there and may do nothing with it
            )
    if "/llm/byor" in row or "/api/secrets/{name}" in row or "/api/keys/{id}" in row:
        return _of_existing_clients(row, identity, is_alice=is_alice)
    if row in ("GET /api/v1/model-calls/{id}", "GET /api/v1/usage/{conversation_id}"):
        sees = is_alice or "usage.view_all" in held(identity)
        return None if sees else 404
    if any(own in row for own in ("/api-keys/{id}", "/sessions/{id}", "/secrets/{id}")):
        return None if is_alice else _others(name, identity)
    if "{id}" in row or row in IN_TEAM_BY_BODY:
        if identity not in ROLE_OF:
            return NOT_OF_TEAM.get(row, 404)
        return None if name in held(identity) else 403
    joins = row == "POST /api/v1/invitations/accept" and identity in KEYS
    makes = row == "POST /api/v1/organizations" and identity == "service account"
    return 403 if joins or makes else None  # a key reaches one organization


def _of_existing_clients(row, identity, *, is_alice):
    """What is the caller's own in the team, by addresses without a place in the API proper."""
    if "/llm/byor" in row:
        return 404  # there is no such key, whoever asks
    if identity in ROLE_OF and POLICY[row] not in held(identity):
        return 403
    return None if is_alice else 404


def _others(name, identity):
    """What somebody else's own thing is: not there."""
    return 403 if identity in KEYS and name not in held(identity) else 404


def try_all():
    """Every cell: (row, identity, whether of a private conversation, the answer, what it should have been)."""
    world = build()
    for row in ROWS:
        for is_private in (False, True) if "/conversations/{id}" in row else (False,):
            conversation = world.private if is_private else world.shared
            for identity in IDENTITIES:
                answer = world.try_row(row, identity, conversation)
                yield (
                    row,
                    identity,
                    is_private,
                    answer,
                    expected(row, identity, is_private=is_private),
                )


@pytest.mark.timeout(600)
def test_matrix(db, capsys):
    started = time.perf_counter()
    cells, allowed, refused, leaks, wrong = 0, [], [], [], []
    for row, identity, is_private, answer, wanted in try_all():
        cells += 1
        cell = f"{row} by {identity}{' (private)' if is_private else ''}: {answer.status_code}"
        got = answer.status_code if answer.status_code in (*REFUSALS, wanted) else None
        if wanted and got is None:
            allowed.append(cell)
        elif got and wanted is None:
            refused.append(f"{cell} {answer.whole[:160]!r}")
        elif got != wanted:
            wrong.append(f"{cell}, not {wanted}")
        if wanted and CANARY.encode() in answer.whole:
            leaks.append(cell)
    seconds = time.perf_counter() - started
    with capsys.disabled():
        print(
            f"\nmatrix: {len(ROWS)} rows x {len(IDENTITIES)} identities = {cells} cells, "
            f"{len(allowed)} unexpected allows, {len(leaks)} leaks, {seconds:.1f} s"
        )

    assert cells > 500
    assert (allowed, leaks, refused, wrong) == ([], [], [], [])


def test_lists_of_strangers_hold_nothing_of_the_team(db):
    world = build()
    for row in ROWS:
        if row.startswith("GET") and "{" not in row:
            for identity in ("stranger", "removed member", "staff without permission"):
                assert CANARY.encode() not in world.try_row(row, identity).whole, (row, identity)


def test_a_key_lacking_only_this_permission_is_told_which(db):
    world = build()
    alice = world.shared.created_by
    lacking = {
        name: key_client(
            alice, organization=world.team, scopes=PERMISSIONS - OPERATING.keys() - {name}
        )
        for name in {POLICY[row] for row in ROWS}
    }
    for row in ROWS:
        name = POLICY[row]
        world.clients["lacking"] = lacking[name]

        refused = world.try_row(row, "lacking")

        assert (refused.status_code, refused.json()["permission"]) == (403, name), row


def test_a_cookie_without_the_csrf_token_changes_nothing(db):
    world = build()
    client = APIClient(enforce_csrf_checks=True)
    client.force_login(world.shared.created_by)
    world.clients["forged"] = client
    for row in ROWS:
        if not row.startswith("GET"):
            answer = world.try_row(row, "forged")
            assert answer.status_code == 403, row


@pytest.mark.django_db(transaction=True)
class TestSocket:
    @pytest.fixture(autouse=True)
    async def _close(self):
        yield
        await sync_to_async(connections.close_all)()
        threads.POOL._pool.submit(connections.close_all).result()

    async def test_matrix(self, capsys):
        started = time.perf_counter()
        world = await sync_to_async(build)()
        wrong, cells = [], 0
        for is_private in (False, True):
            conversation = world.private if is_private else world.shared
            for identity in IDENTITIES:
                got = await self.outcome(conversation, world.headers[identity])
                wanted = expected("GET /api/v1/conversations/{id}", identity, is_private=is_private)
                code = {401: 4401, 403: 4404, 404: 4404, None: None}[wanted]
                cells += 1
                if got != code:
                    wrong.append((identity, is_private, got, code))
        with capsys.disabled():
            print(f"\nsocket: {cells} cells, {time.perf_counter() - started:.1f} s")

        assert wrong == []

    async def outcome(self, conversation, headers):
        """The code that the socket closes with, or None when it sends the conversation's log."""
        sent = {"Origin": "http://testserver"} | headers
        socket = WebsocketCommunicator(
            application,
            f"/ws/v1/conversations/{conversation.pk}",
            headers=[(name.lower().encode(), value.encode()) for name, value in sent.items()],
        )
        connected, code = await socket.connect(timeout=5)
        if not connected:
            return code
        first = await socket.receive_output(timeout=5)
        if first["type"] == "websocket.close":
            return first["code"]
        assert CANARY in first["text"] or "text" in first
        await socket.disconnect()
        return None
