"""The team of Alice and the clients that the tests of the organization API share."""

import pytest
from rest_framework.test import APIClient

from accounts.models import Membership, Organization
from accounts.services import organizations
from tests.factories.accounts import UserFactory

UNKNOWN = "018f0000-0000-7000-8000-000000000000"


def open_session(user):
    """Return a client signed in with a session."""
    client = APIClient()
    client.force_login(user)
    return client


def add_member(team, role):
    """Add a new user to the team with this role, and return the user."""
    user = UserFactory()
    Membership.objects.create(organization=team, user=user, role=role)
    return user


def send(client, method, url, body=None):
    """Send a request with a JSON body and return the response."""
    return getattr(client, method)(url, body, format="json")


@pytest.fixture
def team(alice) -> Organization:
    return organizations.create_organization(user=alice, name="Team")


@pytest.fixture
def owner(alice):
    return open_session(alice)


@pytest.fixture
def viewer(team):
    return open_session(add_member(team, "viewer"))


@pytest.fixture
def stranger(charlie):
    return open_session(charlie)
