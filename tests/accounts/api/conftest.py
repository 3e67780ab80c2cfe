"""A team with its owner Alice, and what the tests of its parts share."""

import pytest
from rest_framework.test import APIClient

from accounts.models import Membership, Organization
from accounts.services import organizations
from tests.factories.accounts import UserFactory

UNKNOWN = "018f0000-0000-7000-8000-000000000000"


def client_of(user):
    """Return a client signed in with a session."""
    client = APIClient()
    client.force_login(user)
    return client


def member(team, role):
    """Return a new user with a role in the team."""
    user = UserFactory()
    Membership.objects.create(organization=team, user=user, role=role)
    return user


def send(client, method, url, body=None):
    """Send a request with a JSON body."""
    return getattr(client, method)(url, body, format="json")


@pytest.fixture
def team(alice) -> Organization:
    return organizations.create_organization(user=alice, name="Team")


@pytest.fixture
def owner(alice):
    return client_of(alice)


@pytest.fixture
def viewer(team):
    return client_of(member(team, "viewer"))


@pytest.fixture
def stranger(charlie):
    return client_of(charlie)
