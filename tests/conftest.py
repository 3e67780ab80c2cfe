"""Fixtures for all tests: the users Alice, Bob and Charlie, an API client, and a clean state."""

import threading
import warnings
from collections.abc import AsyncIterator, Iterator

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.db import connection, connections
from procrastinate.contrib.django.models import ProcrastinateJob
from rest_framework.test import APIClient

from accounts import services as accounts
from accounts.models import Maintenance, Membership, User
from accounts.services import maintenance
from conversations.realtime import threads


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, django_db_blocker) -> Iterator[None]:
    """Let pytest-django drop the database at the end although a thread of a test still has a connection to it."""
    yield
    with django_db_blocker.unblock():
        _close_connections_of_hub()
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


def _close_connections_of_hub() -> None:
    """Close the connections that the threads of the hub keep."""
    pool = threads.POOL._pool
    # Each thread waits for the others, so that no thread runs the function twice.
    barrier = threading.Barrier(pool._max_workers)

    def close() -> None:
        barrier.wait(30)
        connections.close_all()

    for future in [pool.submit(close) for _ in range(pool._max_workers)]:
        future.result()


@pytest.fixture(scope="session", autouse=True)
def _static_files_under_plain_names() -> None:
    """Use no static files that a process prepared: pytest-django's live server finds files only under plain names."""
    django_settings.STATIC_ROOT = django_settings.DATA_DIR / "static-of-tests"


@pytest.fixture
def wsgi_application(monkeypatch):
    """Return the WSGI application, whose import otherwise prepares static files."""
    monkeypatch.setattr("openhands_site.static_files.prepare", lambda: False)
    from openhands_site.wsgi import application

    return application


@pytest.fixture
async def closed_connections() -> AsyncIterator[None]:
    """Close the connections of the threads that a test's coroutines used, so that its tables can be emptied."""
    yield
    await sync_to_async(connections.close_all)()
    threads.POOL._pool.submit(connections.close_all).result()


@pytest.fixture(autouse=True)
def _fast_password_hasher(settings) -> None:
    """Use a fast password hasher, because Argon2 is slow on purpose. Argon2 has its own test."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def _cached_maintenance(monkeypatch) -> None:
    """Cache that maintenance mode is off, so that its query does not disturb query counts. Its own tests clear it."""
    monkeypatch.setattr(maintenance._Cache, "row", Maintenance())
    monkeypatch.setattr(maintenance._Cache, "until", float("inf"))


@pytest.fixture(autouse=True)
def _empty_queue(request: pytest.FixtureRequest) -> Iterator[None]:
    """Delete the jobs after a test that commits. Django flushes only the tables of its own models."""
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
    """The user that owns the objects of most tests."""
    return accounts.create_user(
        email="alice@example.com", password="correct horse battery", name="Alice"
    )


@pytest.fixture
def bob(alice: User) -> User:
    """A member of Alice's personal organization."""
    user = accounts.create_user(
        email="bob@example.com", password="correct horse battery", name="Bob"
    )
    Membership.objects.create(organization=alice.personal_organization, user=user)
    return user


@pytest.fixture
def charlie(db: None) -> User:
    """A user without access to Alice's organization."""
    return accounts.create_user(email="charlie@example.com", password="correct horse battery")


@pytest.fixture
def api(alice: User) -> APIClient:
    """A client that authenticates as Alice with an API key."""
    return key_client(alice)


def key_client(user: User, **options: object) -> APIClient:
    """Return a client that authenticates with a new API key of a user."""
    _, token = accounts.issue_api_key(user=user, name="test", **options)
    return APIClient(headers={"Authorization": f"Bearer {token}"})
