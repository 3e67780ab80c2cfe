"""A team, its members, and the recording of their model calls."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from rest_framework.test import APIClient

from accounts.models import Membership, Organization
from accounts.services import organizations
from billing import services
from billing.models import GatewayToken, ModelAccess, ModelCall
from billing.prices import Tokens
from tests.factories.accounts import UserFactory

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


def open_session(user):
    """Return a client signed in with a session."""
    client = APIClient()
    client.force_login(user)
    return client


def add_member(team, role):
    """Add a new user to the team with this role, and return the user."""
    user = UserFactory(email=f"{role}-{uuid4().hex[:6]}@example.com", name=role.title())
    Membership.objects.create(organization=team, user=user, role=role)
    return user


def record_call(
    user, team, conversation_id, *, tokens=0, at=NOON, model="small", outcome="answered"
):
    """Record a call as the gateway does. A prompt token costs a micro-dollar, other tokens are free."""
    call = services.record_call(
        token=GatewayToken(organization=team, user=user, conversation_id=conversation_id),
        access=ModelAccess(base_url="https://models.example", prompt_micros_per_million=10**6),
        model=model,
        outcome=outcome,
        status=200,
        tokens=Tokens(prompt=tokens, completion=tokens // 2),
        seconds=1.5,
    )
    ModelCall.objects.filter(pk=call.pk).update(created_at=at)
    call.refresh_from_db()
    return call


@pytest.fixture
def team(alice) -> Organization:
    return organizations.create_organization(user=alice, name="Team")


@pytest.fixture
def bob(team):
    return add_member(team, "member")
