"""Keys that were created with another key: when they end, and how they are found and revoked."""

from datetime import timedelta

import pytest
from django.core.management import call_command
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from accounts import services
from accounts.models import ApiKey, AuditEntry, Invitation
from accounts.services import organizations, service_accounts
from tests.accounts.api.conftest import send

KEYS = "/api/v1/api-keys"


def client_of(token):
    return APIClient(headers={"Authorization": f"Bearer {token}"})


@pytest.fixture
def team(alice):
    return organizations.create_organization(user=alice, name="Team")


@pytest.fixture
def account(alice, team):
    return service_accounts.create_service_account(
        organization=team, by=alice, name="ci", role="member"
    )


@pytest.fixture
def parent(alice, team):
    """Alice's key for the team with one day left, and its plain text."""
    return services.issue_api_key(user=alice, organization=team, name="parent", days=1)


def routes(team, account):
    """Return the routes that create keys, each with a body that asks for a long life."""
    late = (timezone.now() + timedelta(days=300)).isoformat()
    return {
        "v1": (KEYS, {"name": "x", "days": 365}),
        "v1 default": (KEYS, {"name": "x"}),
        "compat": ("/api/keys", {"name": "x", "expires_at": late}),
        "compat default": ("/api/keys", {"name": "x"}),
        "service account": (
            f"/api/v1/organizations/{team.pk}/service-accounts/{account.pk}/keys",
            {"name": "x", "days": 365},
        ),
    }


ROUTES = ["v1", "v1 default", "compat", "compat default", "service account"]


@pytest.mark.parametrize("route", ROUTES)
def test_key_that_a_key_creates_ends_with_it_and_names_it(team, account, parent, route):
    key, token = parent
    url, body = routes(team, account)[route]

    response = send(client_of(token), "post", url, body)

    assert response.status_code in (200, 201), response.content
    child = ApiKey.objects.get(name="x")
    assert child.expires_at == key.expires_at
    assert child.parent == key


@pytest.mark.parametrize("route", ROUTES)
def test_grandchild_ends_with_the_first_key(team, account, parent, route):
    key, token = parent
    child = client_of(token).post(KEYS, {"name": "child"}, format="json").json()
    url, body = routes(team, account)[route]

    send(client_of(child["key"]), "post", url, body)

    grandchild = ApiKey.objects.get(name="x")
    assert grandchild.expires_at == key.expires_at
    assert str(grandchild.parent_id) == child["id"]


def test_rotation_by_another_key_ends_with_it(alice, team, parent):
    key, token = parent
    other, _ = services.issue_api_key(user=alice, organization=team, name="other", days=300)

    response = client_of(token).post(f"{KEYS}/{other.pk}/rotate", {}, format="json")

    new = ApiKey.objects.get(pk=response.json()["id"])
    assert (new.expires_at, new.parent) == (key.expires_at, key)


def test_rotation_of_a_child_in_the_browser_does_not_outlive_the_parent(alice, team, parent):
    key, token = parent
    child = client_of(token).post(KEYS, {"name": "child"}, format="json").json()
    browser = APIClient()
    browser.force_login(alice)
    # The child was once created for a longer time, as by an earlier version of this server.
    ApiKey.objects.filter(pk=child["id"]).update(expires_at=timezone.now() + timedelta(days=200))

    response = browser.post(f"{KEYS}/{child['id']}/rotate", {}, format="json")

    assert ApiKey.objects.get(pk=response.json()["id"]).expires_at == key.expires_at


def test_children_and_invitations_of_a_rotated_key_belong_to_the_new_key(alice, team, parent):
    key, token = parent
    child = client_of(token).post(KEYS, {"name": "child"}, format="json").json()
    client_of(token).post(
        f"/api/v1/organizations/{team.pk}/invitations", {"role": "viewer"}, format="json"
    )

    new, _ = services.rotate_api_key(key=key, by=alice)

    assert [str(row.pk) for row in services.child_keys(keys=[new])] == [child["id"]]
    assert new.parent is None
    assert Invitation.objects.get().made_with == new


def test_session_creates_a_key_with_the_requested_life_and_without_a_parent(alice):
    browser = APIClient()
    browser.force_login(alice)

    key = browser.post(KEYS, {"name": "x", "days": 365}, format="json").json()

    row = ApiKey.objects.get(pk=key["id"])
    assert row.expires_at > timezone.now() + timedelta(days=364)
    assert row.parent is None


def test_key_revoked_during_the_request_creates_no_key(parent):
    key, token = parent
    caller = services.authenticate_api_key(token).user
    services.revoke_api_key(key=key)

    with pytest.raises(services.InvalidKey):
        services.issue_api_key(user=caller, name="x", organization=key.organization)


@pytest.fixture
def family(team, account, parent):
    """A key, a key that it created, and a service account's key that this one created."""
    key, token = parent
    child = client_of(token).post(KEYS, {"name": "child"}, format="json").json()
    url, body = routes(team, account)["service account"]
    send(client_of(child["key"]), "post", url, body)
    return key, ApiKey.objects.get(name="child"), ApiKey.objects.get(name="x")


@pytest.fixture
def browser(alice):
    client = APIClient()
    client.force_login(alice)
    return client


def test_children_are_listed_with_all_generations(browser, family):
    key, child, grandchild = family

    rows = browser.get(f"{KEYS}/{key.pk}/children").json()

    assert [row["id"] for row in rows] == [str(child.pk), str(grandchild.pk)]
    assert [row["parent"] for row in rows] == [str(key.pk), str(child.pk)]


def test_revocation_returns_the_keys_that_still_work(browser, family):
    key, child, grandchild = family

    response = browser.delete(f"{KEYS}/{key.pk}")

    assert response.status_code == 200
    ids = [row["id"] for row in response.json()["children"]]
    assert ids == [str(child.pk), str(grandchild.pk)]
    assert not ApiKey.objects.get(pk=key.pk).is_usable
    assert ApiKey.objects.get(pk=child.pk).is_usable


def test_revocation_with_children_ends_all_generations(browser, family):
    key, _, _ = family

    assert browser.delete(f"{KEYS}/{key.pk}?children=revoke").status_code == 204
    assert not ApiKey.objects.usable().exists()


def test_children_can_be_revoked_after_the_key(browser, family):
    key, _, _ = family
    browser.delete(f"{KEYS}/{key.pk}")

    assert browser.delete(f"{KEYS}/{key.pk}?children=revoke").status_code == 204
    assert not ApiKey.objects.usable().exists()


def test_revocation_of_a_key_without_children_is_204(browser, parent):
    assert browser.delete(f"{KEYS}/{parent[0].pk}").status_code == 204


def test_unknown_value_for_children_is_400(browser, parent):
    assert browser.delete(f"{KEYS}/{parent[0].pk}?children=all").status_code == 400
    assert ApiKey.objects.get(pk=parent[0].pk).is_usable


def test_page_offers_to_revoke_the_children(alice, family):
    key, child, grandchild = family
    page = Client()
    page.force_login(alice)
    url = f"/settings/api-keys/{key.pk}/revoke"

    offer = page.post(url).content.decode()
    page.post(url, {"children": "on"})

    assert child.prefix in offer
    assert grandchild.prefix in offer
    assert not ApiKey.objects.usable().exists()


@pytest.mark.parametrize(("action", "usable"), [("revoke", 2), ("revoke_with_children", 0)])
def test_admin_lists_or_revokes_the_children(alice, family, action, usable, settings):
    settings.STAFF_SECOND_FACTOR = False
    alice.is_staff = alice.is_superuser = True
    alice.save()
    site = Client()
    site.force_login(alice)
    form = {"action": action, "_selected_action": [str(family[0].pk)]}

    page = site.post("/admin/accounts/apikey/", form, follow=True).content.decode()

    assert ApiKey.objects.usable().count() == usable
    assert ("still work" in page) == bool(usable)


@pytest.mark.parametrize("with_children", [False, True])
def test_command_lists_or_revokes_the_children(family, capsys, with_children):
    options = ["--children"] if with_children else []

    call_command("revoke_api_keys", "--prefix", family[0].prefix, *options)

    assert family[2].prefix in capsys.readouterr().out
    assert ApiKey.objects.usable().count() == (0 if with_children else 2)


@pytest.mark.parametrize("way", ["removed", "left"])
def test_audit_log_names_the_keys_that_a_former_member_created(alice, bob, team, account, way):
    organizations.add_member(organization=team, user=bob, role="admin")
    _, token = services.issue_api_key(user=bob, organization=team, name="parent")
    path = f"/api/v1/organizations/{team.pk}/service-accounts/{account.pk}/keys"
    child = send(client_of(token), "post", path, {"name": "x"}).json()

    if way == "removed":
        organizations.remove_member(organization=team, by=alice, user_id=bob.pk)
    else:
        organizations.leave_organization(organization=team, user=bob)

    entry = AuditEntry.objects.get(action=f"member.{way}")
    assert entry.after == {"keys_left": [child["prefix"]]}
