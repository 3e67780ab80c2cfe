"""The page of an organization's settings: admins set defaults and enforce them, others look."""

import pytest
from django.test import Client

from accounts.models import Membership, OrganizationSettings
from accounts.services import organizations, user_settings

FORM = {
    "version": "0", "confirmation_mode": "yes", "security_analyzer": "pattern", "enable_default_condenser": "",
    "max_iterations": "70", "condenser_max_size": "", "enforced": ["confirmation_mode", "max_iterations"],
}  # fmt: skip


@pytest.fixture
def path(alice):
    return f"/settings/organizations/{alice.personal_organization.pk}/agents"


def browser(user):
    client = Client()
    client.force_login(user)
    return client


def test_defaults_and_what_is_enforced(alice, bob, path):
    page = browser(alice)
    assert "Not set: the model" in page.get(path).text

    assert page.post(path, FORM).status_code == 302

    row = OrganizationSettings.objects.get()
    wanted = {"confirmation_mode": True, "security_analyzer": "pattern", "max_iterations": 70}
    assert row.values == wanted
    assert row.enforced == ["confirmation_mode", "max_iterations"]
    found = user_settings.effective_settings(
        user_id=bob.pk, organization_id=alice.personal_organization.pk
    )
    assert found.set_by["max_iterations"] == user_settings.ENFORCED
    shown = page.get(path).text
    assert 'value="confirmation_mode" checked' in shown
    assert '<option value="pattern" selected>' in shown
    taken_back = FORM | {"version": "1", "max_iterations": "", "enforced": []}
    assert page.post(path, taken_back).status_code == 302
    row.refresh_from_db()
    assert ("max_iterations" in row.values, row.enforced) == (False, [])


def test_what_the_page_does_not_show_stays(alice, path):
    user_settings.change_organization_settings(
        organization=alice.personal_organization,
        values={"language": "de"},
        enforced=["language"],
    )

    browser(alice).post(path, FORM | {"version": "1"})

    row = OrganizationSettings.objects.get()
    assert row.values["language"] == "de"
    assert row.enforced == ["confirmation_mode", "language", "max_iterations"]


def test_the_search_key_is_never_shown(alice, path):
    page = browser(alice)
    page.post(path, FORM | {"search_api_key": "tvly-Sec-1"})
    page.post(path, FORM | {"version": "1"})

    row = OrganizationSettings.objects.get()
    assert row.secrets["search_api_key"] == "tvly-Sec-1"
    assert "tvly-Sec-1" not in page.get(path).text
    page.post(path, FORM | {"version": str(row.version), "remove_search_api_key": "1"})
    row.refresh_from_db()
    assert row.secrets == {}


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"max_iterations": "0"}, 400, "max_iterations"),
        ({"security_analyzer": "x"}, 400, "security_analyzer"),
        ({"version": "7"}, 409, "changed since you read them"),
        ({"version": ""}, 409, "changed since you read them"),
    ],
)
def test_a_refusal_says_why_and_keeps_the_form(alice, path, change, status, said):
    answer = browser(alice).post(path, FORM | change)

    assert answer.status_code == status
    assert said in answer.text
    assert 'value="max_iterations" checked' in answer.text
    assert not OrganizationSettings.objects.exists()


def test_members_do_not_change_it_and_strangers_do_not_see_it(alice, bob, charlie, path):
    assert browser(bob).post(path, FORM).status_code == 403
    assert browser(charlie).get(path).status_code == 404
    assert not OrganizationSettings.objects.exists()
    team = organizations.create_organization(user=alice, name="Team")
    Membership.objects.create(organization=team, user=bob, role=Membership.Role.ADMIN)
    there = f"/settings/organizations/{team.pk}/agents"
    assert browser(bob).post(there, FORM).status_code == 302
