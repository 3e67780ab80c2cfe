"""The authorization matrix: every API row of the policy and the WebSocket, requested by every identity.

``make test`` requests every fourth row, ``make test-slow`` all of them.
A request without valid credentials gets 401, without the permission 403, and for an invisible object 404. No rejected
response contains data of the owner. The expected status of each cell follows from ``policy.py`` and the roles, not
from the code under test.
"""

import time

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.db import connections
from rest_framework.test import APIClient

from accounts.roles import ADMINISTER, DISPOSING, OPERATING, PERMISSIONS, STEERING
from conversations.realtime import threads
from openhands_site.asgi import application
from tests.architecture.policy import POLICY
from tests.architecture.world import (
    CANARY,
    IDENTITIES,
    KEYS,
    ROLE_OF,
    SCOPES,
    UNAUTHENTICATED,
    build,
    permissions_of,
)
from tests.conftest import key_client

ROWS = [row for row, name in POLICY.items() if " /api/" in row and name in PERMISSIONS]
REFUSALS = (401, 403, 404)
IN_TEAM_BY_BODY = {
    "GET /api/v1/audit",
    "GET /api/v1/egress-decisions",
    "GET /api/v1/egress-policy",
    "PUT /api/v1/egress-policy",
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
    "GET /api/v1/egress-decisions": 403,  # as for the audit log
    "GET /api/v1/audit": 403,  # also for an organization that does not exist
}
"""The statuses for identities outside the team that are not 404."""


def is_reader(identity):
    """Return whether conversations of the team exist for an identity. For billing and auditor they do not."""
    return identity in ROLE_OF and "conversations.view" in permissions_of(identity)


def expected(row, identity, *, is_private):
    """Return the status that a cell must have, or None if the request is allowed."""
    status = expected_by_role(row, identity, is_private=is_private)
    is_of_conversation = "/conversations/{id}" in row or "/sandboxes/{id}" in row
    if status is None and is_of_conversation and ROLE_OF.get(identity) != "owner":
        return expected_on_shared(row, identity)
    return status


def expected_by_role(row, identity, *, is_private):
    """Return the status that follows from the policy and the identity's role."""
    name = POLICY[row]
    if identity in UNAUTHENTICATED:
        return 401
    if name in OPERATING:
        return 403  # no identity of the matrix is an operator
    if identity == "scoped key" and name not in SCOPES:
        return 403
    is_alice = ROLE_OF.get(identity) == "owner"
    is_about_work = "/conversations/{id}" in row or "/sandboxes/{id}" in row
    if is_about_work and (not is_reader(identity) or (is_private and not is_alice)):
        return 404
    if "/llm/byor" in row or "/api/secrets/{name}" in row or "/api/keys/{id}" in row:
        return expected_for_compat(row, identity, is_alice=is_alice)
    if row in ("GET /api/v1/model-calls/{id}", "GET /api/v1/usage/{conversation_id}"):
        is_visible = is_alice or "usage.view_all" in permissions_of(identity)
        return None if is_visible else 404
    if any(own in row for own in ("/api-keys/{id}", "/sessions/{id}", "/secrets/{id}")):
        return None if is_alice else expected_for_other_owner(name, identity)
    if "{id}" in row or row in IN_TEAM_BY_BODY:
        if identity not in ROLE_OF:
            return NOT_OF_TEAM.get(row, 404)
        return None if name in permissions_of(identity) else 403
    is_join = row == "POST /api/v1/invitations/accept" and identity in KEYS
    is_creation = row == "POST /api/v1/organizations" and identity == "service account"
    return 403 if is_join or is_creation else None  # a key is limited to its organization


STOPS = (
    "POST /api/v1/conversations/{id}/interrupt",
    "POST /api/v1/conversations/{id}/sandbox/pause",
    "POST /api/conversations/{id}/stop",
    "POST /api/conversations/{id}/pause",
    "POST /api/conversations/{id}/interrupt",
    "POST /api/conversations/{id}/events",  # the body of the matrix pauses the agent
    "POST /api/v1/sandboxes/{id}/pause",
)


def expected_on_shared(row, identity):
    """Return 403 for what only Alice may do with a conversation that she shares read-only, else None.

    Administrators may also stop and delete it.
    """
    permissions = permissions_of(identity)
    if POLICY[row] in STEERING:
        is_allowed = row in STOPS and ADMINISTER in permissions
    elif POLICY[row] in DISPOSING:
        is_allowed = ADMINISTER in permissions
    else:
        return None
    return None if is_allowed and POLICY[row] in permissions else 403


def expected_for_compat(row, identity, *, is_alice):
    """Return the expected status for an object of its owner at a path of the OpenHands protocol."""
    if "/llm/byor" in row:
        return 404  # no identity has a key for a model
    if identity in ROLE_OF and POLICY[row] not in permissions_of(identity):
        return 403
    return None if is_alice else 404


def expected_for_other_owner(name, identity):
    """Return the expected status for an object of another user: the object does not exist."""
    return 403 if identity in KEYS and name not in permissions_of(identity) else 404


def try_all(rows):
    """Yield (row, identity, is_private, response, expected status) for every cell of some rows of the matrix."""
    world = build()
    for row in rows:
        for is_private in (False, True) if "/conversations/{id}" in row else (False,):
            conversation = world.private if is_private else world.shared
            for identity in IDENTITIES:
                response = world.try_row(row, identity, conversation)
                yield (
                    row,
                    identity,
                    is_private,
                    response,
                    expected(row, identity, is_private=is_private),
                )


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(ROWS[::4], id="every fourth row"),
        pytest.param(ROWS, marks=pytest.mark.slow, id="all rows"),
    ],
)
def test_every_row_by_every_identity_has_the_expected_status_and_leaks_nothing(db, capsys, rows):
    started = time.perf_counter()
    cells, allowed, refused, leaks, wrong = 0, [], [], [], []
    for row, identity, is_private, response, expected_status in try_all(rows):
        cells += 1
        cell = f"{row} by {identity}{' (private)' if is_private else ''}: {response.status_code}"
        refusal = (
            response.status_code if response.status_code in (*REFUSALS, expected_status) else None
        )
        if expected_status and refusal is None:
            allowed.append(cell)
        elif refusal and expected_status is None:
            refused.append(f"{cell} {response.whole[:160]!r}")
        elif refusal != expected_status:
            wrong.append(f"{cell}, not {expected_status}")
        if expected_status and CANARY.encode() in response.whole:
            leaks.append(cell)
    seconds = time.perf_counter() - started
    with capsys.disabled():
        print(
            f"\nmatrix: {len(rows)} rows x {len(IDENTITIES)} identities = {cells} cells, "
            f"{len(allowed)} unexpected allows, {len(leaks)} leaks, {seconds:.1f} s"
        )

    assert cells > 500
    assert (allowed, leaks, refused, wrong) == ([], [], [], [])


def test_lists_of_users_outside_the_team_contain_no_data_of_the_team(db):
    world = build()
    for row in ROWS:
        if row.startswith("GET") and "{" not in row:
            for identity in ("stranger", "removed member", "staff without permission"):
                response = world.try_row(row, identity)
                assert response.status_code < 500, (row, identity)
                assert CANARY.encode() not in response.whole, (row, identity)


def test_key_without_one_permission_gets_a_403_that_names_it(db):
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

        response = world.try_row(row, "lacking")

        assert (response.status_code, response.json()["permission"]) == (403, name), row


def test_changing_request_with_a_cookie_but_no_csrf_token_is_rejected(db):
    world = build()
    client = APIClient(enforce_csrf_checks=True)
    client.force_login(world.shared.created_by)
    world.clients["forged"] = client
    for row in ROWS:
        if not row.startswith("GET"):
            response = world.try_row(row, "forged")
            assert response.status_code == 403, row


@pytest.mark.django_db(transaction=True)
class TestSocket:
    @pytest.fixture(autouse=True)
    async def _close_connections(self):
        yield
        await sync_to_async(connections.close_all)()
        threads.POOL._pool.submit(connections.close_all).result()

    async def test_socket_has_the_expected_close_code_for_every_identity(self, capsys):
        started = time.perf_counter()
        world = await sync_to_async(build)()
        wrong, cells = [], 0
        for is_private in (False, True):
            conversation = world.private if is_private else world.shared
            for identity in IDENTITIES:
                code = await self.open_socket(conversation, world.headers[identity])
                status = expected("GET /api/v1/conversations/{id}", identity, is_private=is_private)
                expected_code = {401: 4401, 403: 4404, 404: 4404, None: None}[status]
                cells += 1
                if code != expected_code:
                    wrong.append((identity, is_private, code, expected_code))
        with capsys.disabled():
            print(f"\nsocket: {cells} cells, {time.perf_counter() - started:.1f} s")

        assert wrong == []

    async def open_socket(self, conversation, headers):
        """Return the code with which the socket is closed, or None if it sends the conversation's log."""
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
