"""Audit entries of linked identities and ended sessions."""

import pytest

from accounts.models import AuditEntry, IdentityProvider
from accounts.services import identities, sessions


@pytest.fixture
def provider(db, alice):
    return IdentityProvider.objects.create(
        slug="company",
        name="Company",
        issuer="https://id.example.com",
        client_id="server",
        claim_rules=[],
    )


def read_changes(action):
    return [(e.before, e.after, e.reason) for e in AuditEntry.objects.filter(action=action)]


def test_linking_and_unlinking_an_identity_are_in_the_audit_log(alice, provider):
    linked = identities.link_identity(user=alice, provider=provider, claims={"sub": "a"})
    identities.unlink_identity(identity=linked)

    assert read_changes("identity.linked") == [({}, {"provider": "company"}, "")]
    assert read_changes("identity.unlinked") == [({"provider": "company"}, {}, "")]


def test_ended_sessions_are_one_audit_entry_with_their_number(alice):
    sessions.begin_session(user=alice, address="127.0.0.1", user_agent="test")
    sessions.begin_session(user=alice, address="127.0.0.1", user_agent="test")

    sessions.end_sessions(user=alice, reason="signed out everywhere")

    assert read_changes("sessions.ended") == [({}, {"sessions": 2}, "signed out everywhere")]
