"""The last owner of an organization, and keys of leaving members, when a provider is disconnected or claims change."""

import pytest
from django.test import Client

from accounts import services
from accounts.models import AuditEntry, Membership, Organization, User
from accounts.services import claimed_roles, identities
from tests.factories.accounts import UserFactory
from tests.oidc.conftest import create_provider


@pytest.fixture
def team(db):
    return Organization.objects.create(name="Team")


@pytest.fixture
def provider(oidc, team):
    rules = [{"claim": "groups", "value": "owners", "organization": str(team.pk), "role": "owner"}]
    return create_provider(oidc, claim_rules=rules)


@pytest.fixture
def identity(provider):
    """The identity of a person whom the claims made an owner, and who also has a password."""
    claims = {"sub": "s", "email": "ana@example.org", "email_verified": True, "groups": ["owners"]}
    identity = identities.sign_in_identity(provider=provider, claims=claims)
    identity.user.set_password("correct horse battery")
    identity.user.save()
    return identity


def add_owner(team, **fields):
    user = UserFactory()
    User.objects.filter(pk=user.pk).update(**fields or {"is_active": True})
    return Membership.objects.create(organization=team, user=user, role="owner")


def role_of(identity, team):
    row = team.memberships.filter(user=identity.user).first()
    return row.role if row else None


def drop_claim(identity):
    claimed_roles.apply_claims(identity=identity, claims={"sub": "s"})


def disconnect(identity):
    identities.unlink_identity(identity=identity)


WAYS = [drop_claim, disconnect]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("other", [None, "suspended", "service account"])
def test_last_active_owner_stays_an_owner(identity, team, way, other):
    if other == "suspended":
        add_owner(team, is_active=False)
    elif other:
        add_owner(team, is_service_account=True)

    way(identity)

    assert role_of(identity, team) == "owner"


@pytest.mark.parametrize("way", WAYS)
def test_owner_beside_an_active_owner_leaves_and_the_keys_stop_working(identity, team, way):
    add_owner(team)
    _, token = services.issue_api_key(user=identity.user, organization=team, name="x")
    _, own = services.issue_api_key(user=identity.user, name="own")

    way(identity)

    assert role_of(identity, team) is None
    assert services.authenticate_api_key(own)
    with pytest.raises(services.InvalidKey):
        services.authenticate_api_key(token)
    assert AuditEntry.objects.filter(chain=team.pk, before={"role": "owner"}).count() == 1


def test_page_warns_the_last_owner(identity, team):
    client = Client()
    client.force_login(identity.user)

    page = client.post("/settings/sign-in/acme/disconnect", follow=True).content.decode()

    assert "You are still an owner of “Team”, because it has no other owner." in page


def test_kept_owner_is_recorded_once(identity, team):
    drop_claim(identity)
    drop_claim(identity)

    entry = AuditEntry.objects.get(action="membership.kept")
    assert entry.chain == team.pk
    assert entry.after == {"role": "owner", "claimed": "none"}


def test_suspension_of_the_last_owner_warns_staff(identity, team, alice, settings):
    settings.STAFF_SECOND_FACTOR = False
    alice.is_staff = alice.is_superuser = True
    alice.save()
    client = Client()
    client.force_login(alice)
    form = {"action": "suspend", "_selected_action": [str(identity.user.pk)]}

    page = client.post("/admin/accounts/user/", form, follow=True).content.decode()

    assert "now has no active owner" in page
    assert not type(alice).objects.get(pk=identity.user.pk).is_active
