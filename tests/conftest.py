"""Personas, API clients and what every test shares."""

from collections.abc import Iterator

import pytest
from django.db import connection
from procrastinate.contrib.django.models import ProcrastinateJob
from rest_framework.test import APIClient

from accounts import services as accounts
from accounts.models import Maintenance, Membership, User
from accounts.services import maintenance


@pytest.fixture(autouse=True)
def _quick_passwords(settings) -> None:
    """Argon2 takes its time on purpose; only its own test pays for it."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def _open(monkeypatch) -> None:
    """The server is open and knows it, so that queries can be counted; maintenance's own tests ask anew."""
    monkeypatch.setattr(maintenance._Memory, "row", Maintenance())
    monkeypatch.setattr(maintenance._Memory, "until", float("inf"))


@pytest.fixture(autouse=True)
def _empty_queue(request: pytest.FixtureRequest) -> Iterator[None]:
    """Django flushes its own tables after a test that commits; the queue's are not its own."""
    yield
    marker = request.node.get_closest_marker("django_db")
    commits = "transactional_db" in request.fixturenames or (
        marker is not None and marker.kwargs.get("transaction")
    )
    if commits:
        with request.getfixturevalue("django_db_blocker").unblock():
            ProcrastinateJob.objects.all()._raw_delete("default")
            connection.close()


@pytest.fixture
def alice(db: None) -> User:
    """Owns things."""
    return accounts.create_user(
        email="alice@example.com", password="correct horse battery", name="Alice"
    )


@pytest.fixture
def bob(alice: User) -> User:
    """Alice's teammate: a member of her organization."""
    user = accounts.create_user(
        email="bob@example.com", password="correct horse battery", name="Bob"
    )
    Membership.objects.create(organization=alice.personal_organization, user=user)
    return user


@pytest.fixture
def charlie(db: None) -> User:
    """A stranger."""
    return accounts.create_user(email="charlie@example.com", password="correct horse battery")


@pytest.fixture
def api(alice: User) -> APIClient:
    """A client signed in as Alice by an API key."""
    return key_client(alice)


def key_client(user: User, **key: object) -> APIClient:
    """A client that authenticates with a fresh API key of a user."""
    _, token = accounts.issue_api_key(user=user, name="test", **key)
    return APIClient(headers={"Authorization": f"Bearer {token}"})
