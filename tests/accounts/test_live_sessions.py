"""``find_live_session`` and ``find_session_user``: the session and the user of each request with a session cookie."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import Identity, IdentityProvider, ProviderSession, UserSession
from accounts.services import people, sessions
from accounts.sign_in.authentication import authenticate_scope


@pytest.fixture
def session(alice):
    return sessions.begin_session(user=alice, address="192.0.2.1", user_agent="Firefox")


def find(session, user):
    return sessions.find_live_session(user=user, session_id=str(session.pk))


def as_dict(row):
    return {field.attname: getattr(row, field.attname) for field in row._meta.concrete_fields}


def test_live_session_equals_the_row_that_the_orm_reads(alice, session):
    found = find(session, alice)

    assert found == session
    assert as_dict(found) == as_dict(UserSession.objects.get(pk=session.pk))
    assert getattr(found, "provider_session", None) is None


def test_live_session_has_its_provider_session(alice, session, django_assert_num_queries):
    provider = IdentityProvider.objects.create(slug="p", name="P", issuer="https://p.example")
    identity = Identity.objects.create(
        user=alice, provider=provider, issuer=provider.issuer, sub="s"
    )
    stored = ProviderSession(session=session, identity=identity, access_expires_at=timezone.now())
    stored.refresh_token = "a token"
    stored.save()

    found = find(session, alice)

    with django_assert_num_queries(0):
        assert found.provider_session.session is found
        assert found.provider_session.refresh_token == "a token"
    assert as_dict(found.provider_session) == as_dict(ProviderSession.objects.get(pk=stored.pk))


@pytest.mark.parametrize(
    "change",
    [
        {"ended_at": timezone.now()},
        {"expires_at": timezone.now() - timedelta(seconds=1)},
    ],
    ids=["ended", "expired"],
)
def test_ended_and_expired_sessions_are_not_found(alice, session, change):
    assert find(session, alice) is not None

    UserSession.objects.filter(pk=session.pk).update(**change)

    assert find(session, alice) is None


def test_session_of_another_user_is_not_found(bob, session):
    assert find(session, bob) is None


def test_last_seen_is_updated_once_a_minute(alice, session, django_assert_num_queries):
    with django_assert_num_queries(1):
        find(session, alice)
    old = timezone.now() - timedelta(seconds=61)
    UserSession.objects.filter(pk=session.pk).update(last_seen_at=old)

    with django_assert_num_queries(2):
        find(session, alice)

    session.refresh_from_db()
    assert timezone.now() - session.last_seen_at < timedelta(seconds=10)


def test_user_of_a_session_equals_the_row_that_the_orm_reads(alice):
    found = sessions.find_session_user(alice.pk)

    assert as_dict(found) == as_dict(type(alice).objects.get(pk=alice.pk))


def test_unknown_and_suspended_users_of_a_session_are_not_found(alice):
    assert sessions.find_session_user(uuid4()) is None

    people.suspend_user(user=alice)

    assert sessions.find_session_user(alice.pk) is None


@pytest.mark.parametrize(
    "backend",
    [
        "accounts.sign_in.authentication.EmailBackend",
        "accounts.sign_in.backend.ProviderBackend",
    ],
)
def test_session_cookie_takes_two_queries(alice, backend, django_assert_num_queries):
    client = Client()
    client.force_login(alice, backend=backend)
    cookie = f"sessionid={client.cookies['sessionid'].value}".encode()

    with django_assert_num_queries(2) as queries:
        user = authenticate_scope({"headers": [(b"cookie", cookie)]})

    assert user == alice
    tables = [query["sql"].split(" FROM ")[1].split()[0] for query in queries]
    assert tables == ['"accounts_user"', '"accounts_usersession"']
