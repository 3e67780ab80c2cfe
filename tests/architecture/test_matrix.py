"""The authorization matrix: every API row of the policy, tried by everybody who should and should not.

What is refused differs by reason: no caller is 401, no permission 403, and what somebody may not see does not
exist, 404. No answer to a stranger holds a byte of the owner's data.
"""

from dataclasses import dataclass

import pytest
from django.db import transaction
from rest_framework.test import APIClient

from accounts import services
from accounts.models import Membership, Organization, UserSession
from accounts.permissions import PERMISSIONS, ROLE_PERMISSIONS
from conversations.models import Conversation
from tests.architecture.policy import POLICY
from tests.conftest import key_client
from tests.factories.accounts import UserFactory
from tests.factories.conversations import ConversationFactory, EventFactory

ROWS = [row for row, name in POLICY.items() if "/api/v1/" in row and name in PERMISSIONS]
CANARY = "canary-of-alice"
BODIES = {
    "POST /api/v1/api-keys": {"name": "x"},
    "POST /api/v1/conversations": {"message": "hello"},
    "PUT /api/v1/settings/model-access": {
        "base_url": "https://models.example.com/v1",
        "model": "m",
    },
    "POST /api/v1/settings/model-access/test": {},
    "POST /api/v1/sessions/sign-out-everywhere": {},
}
"""A good body for each unsafe row without an object; those with one refuse before they read it."""


@dataclass
class World:
    """Alice owns a team with Bob and Vera in it; Rita was in it once; Charlie is a stranger."""

    team: Organization
    clients: dict[str, APIClient]
    shared: Conversation
    private: Conversation
    own: dict[str, str]
    """What is Alice's own and no conversation, by the part of the address that names its kind."""

    def try_row(self, row, persona, *, conversation=None):
        """The answer; what a call changes is undone."""
        method, path = row.split(" ")
        target = (conversation or self.shared).pk
        target = next((pk for part, pk in self.own.items() if part in path), target)
        with transaction.atomic():
            response = self.clients[persona].generic(
                method,
                path.replace("{id}", str(target)),
                _json(BODIES.get(row, {})) if method in ("POST", "PUT", "PATCH") else b"",
                content_type="application/json",
            )
            response.whole = b"".join(response) if response.streaming else response.content
            transaction.set_rollback(True)
        return response


def _json(value):
    import json

    return json.dumps(value).encode()


@pytest.fixture
def world(db):
    team = Organization.objects.create(name=f"{CANARY} team")
    alice = UserFactory(email=f"{CANARY}@example.com", name=f"{CANARY} name")
    others = {name: UserFactory() for name in ("bob", "vera", "rita", "charlie", "susan")}
    roles = {"bob": "member", "vera": "viewer", "rita": "owner", "susan": "owner"}
    Membership.objects.create(organization=team, user=alice, role="owner")
    for name, role in roles.items():
        Membership.objects.create(organization=team, user=others[name], role=role)
    clients = {"anonymous": APIClient(), "charlie": key_client(others["charlie"])}
    clients["alice"] = key_client(alice, organization=team)
    clients |= {name: key_client(others[name], organization=team) for name in roles}
    for permission in PERMISSIONS:
        scopes = PERMISSIONS - {permission}
        clients[f"alice without {permission}"] = key_client(alice, organization=team, scopes=scopes)
    session = APIClient(enforce_csrf_checks=True)
    session.force_login(alice)
    clients["alice by cookie without CSRF token"] = session
    key, _ = services.issue_api_key(user=alice, organization=team, name=f"{CANARY} key")
    shared, private = (
        ConversationFactory(
            created_by=alice, organization=team, title=f"{CANARY} title", visibility=visibility
        )
        for visibility in ("organization", "private")
    )
    for conversation in (shared, private):
        EventFactory(conversation=conversation, payload=f'{{"text": "{CANARY}"}}')
    Membership.objects.filter(user=others["rita"], organization=team).delete()
    services.suspend_user(user=others["susan"])
    own = {"/api-keys/": key.pk, "/sessions/": UserSession.objects.get(user=alice).pk}
    return World(team, clients, shared, private, own)


def has_object(row):
    return "{id}" in row


def is_own(row):
    """Keys and model access belong to one person, not to the organization."""
    return "/api-keys" in row or "/settings/" in row or "/sessions" in row


def test_rows_without_an_object_have_a_body():
    unsafe = {row for row in ROWS if not has_object(row) and not row.startswith(("GET", "DELETE"))}

    assert unsafe == BODIES.keys()


@pytest.mark.parametrize("row", ROWS)
def test_matrix(world, row):
    name = POLICY[row]

    for persona in ("anonymous", "susan"):
        answer = world.try_row(row, persona)
        assert answer.status_code == 401, persona
        assert CANARY.encode() not in answer.whole

    refused = world.try_row(row, f"alice without {name}")
    assert (refused.status_code, refused.json()["permission"]) == (403, name)

    allowed = world.try_row(row, "alice")
    assert allowed.status_code not in (401, 403, 404), allowed.whole

    if not row.startswith("GET"):
        forged = world.try_row(row, "alice by cookie without CSRF token")
        assert forged.status_code == 403, forged.whole

    for persona in ("charlie", "rita"):
        for conversation in (world.shared, world.private):
            answer = world.try_row(row, persona, conversation=conversation)
            assert CANARY.encode() not in answer.whole, persona
            if has_object(row):
                assert answer.status_code == 404, persona

    if has_object(row):
        for persona in ("bob", "vera"):
            hidden = world.try_row(row, persona, conversation=world.private)
            assert hidden.status_code == 404, persona

    for persona, role in (("bob", "member"), ("vera", "viewer")):
        answer = world.try_row(row, persona)
        if has_object(row) and is_own(row):
            assert answer.status_code == 404, persona
        elif name in ROLE_PERMISSIONS[role]:
            assert answer.status_code not in (401, 403, 404), (persona, answer.whole)
        elif row == "GET /api/v1/api-keys":
            assert answer.json()["items"], "one's own keys, the one of this very request among them"
        else:
            assert answer.status_code == 403, (persona, answer.whole)


def test_removed_member_creates_nothing_in_the_team(world):
    for row in ("POST /api/v1/conversations", "POST /api/v1/api-keys"):
        assert world.try_row(row, "rita").status_code in (400, 403, 404)
