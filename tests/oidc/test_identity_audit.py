"""Acts of identity stand in the audit log, with what was before and after."""

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


def acts(action):
    return [(e.before, e.after, e.reason) for e in AuditEntry.objects.filter(action=action)]


def test_link_and_unlink(alice, provider):
    linked = identities.link_identity(user=alice, provider=provider, claims={"sub": "a"})
    identities.unlink_identity(identity=linked)

    assert acts("identity.linked") == [({}, {"provider": "company"}, "")]
    assert acts("identity.unlinked") == [({"provider": "company"}, {}, "")]


def test_ended_sessions(alice):
    sessions.begin_session(user=alice, address="127.0.0.1", user_agent="test")
    sessions.begin_session(user=alice, address="127.0.0.1", user_agent="test")

    sessions.end_sessions(user=alice, reason="signed out everywhere")

    assert acts("sessions.ended") == [({}, {"sessions": 2}, "signed out everywhere")]
