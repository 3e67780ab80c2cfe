"""Personas, API clients and what every test shares."""

import warnings
from collections.abc import Iterator

import pytest
from django.db import connection, connections
from procrastinate.contrib.django.models import ProcrastinateJob
from rest_framework.test import APIClient

from accounts import services as accounts
from accounts.models import Maintenance, Membership, User
from accounts.services import maintenance


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, django_db_blocker) -> Iterator[None]:
    """pytest-django's, whose database can be dropped in the end although a test's thread still holds it."""
    yield
    with django_db_blocker.unblock():
        name = connection.settings_dict["NAME"]
        connections.close_all()
        with connection._nodb_cursor() as cursor:
            cursor.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            cursor.execute(
                "SELECT state, query, pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = %s",
                [name],
            )
            for state, query, _ in cursor.fetchall():
                warnings.warn(f"A connection was left open, {state}: {query}", stacklevel=1)


@pytest.fixture(autouse=True)
def _quick_passwords(settings) -> None:
    """Argon2 takes its time on purpose; only its own test pays for it."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def _open(monkeypatch) -> None:
    """The server is open and knows it, so that queries can be counted; maintenance's own tests ask anew."""
    monkeypatch.setattr(maintenance._Cache, "row", Maintenance())
    monkeypatch.setattr(maintenance._Cache, "until", float("inf"))


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
