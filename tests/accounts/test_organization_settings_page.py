"""The page of an organization's settings, on which admins set and enforce defaults."""

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


def open_browser(user):
    client = Client()
    client.force_login(user)
    return client


def test_admin_sets_enforces_and_clears_defaults(alice, bob, path):
    page = open_browser(alice)
    assert "Not set: the model" in page.get(path).text

    assert page.post(path, FORM).status_code == 302

    row = OrganizationSettings.objects.get()
    assert row.values == {
        "confirmation_mode": True,
        "security_analyzer": "pattern",
        "max_iterations": 70,
    }
    assert row.enforced == ["confirmation_mode", "max_iterations"]
    bobs = user_settings.effective_settings(
        user_id=bob.pk, organization_id=alice.personal_organization.pk
    )
    assert bobs.set_by["max_iterations"] == user_settings.ENFORCED
    shown = page.get(path).text
    assert 'value="confirmation_mode" checked' in shown
    assert '<option value="pattern" selected>' in shown
    cleared = FORM | {"version": "1", "max_iterations": "", "enforced": []}
    assert page.post(path, cleared).status_code == 302
    row.refresh_from_db()
    assert ("max_iterations" in row.values, row.enforced) == (False, [])


def test_values_that_the_page_does_not_show_are_kept(alice, path):
    user_settings.change_organization_settings(
        organization=alice.personal_organization,
        values={"language": "de"},
        enforced=["language"],
    )

    open_browser(alice).post(path, FORM | {"version": "1"})

    row = OrganizationSettings.objects.get()
    assert row.values["language"] == "de"
    assert row.enforced == ["confirmation_mode", "language", "max_iterations"]


def test_search_key_is_kept_removed_and_never_shown(alice, path):
    page = open_browser(alice)
    page.post(path, FORM | {"search_api_key": "tvly-Sec-1"})
    page.post(path, FORM | {"version": "1"})

    row = OrganizationSettings.objects.get()
    assert row.secrets["search_api_key"] == "tvly-Sec-1"
    shown = page.get(path)
    assert (shown.status_code, "tvly-Sec-1" in shown.text) == (200, False)
    page.post(path, FORM | {"version": str(row.version), "remove_search_api_key": "1"})
    row.refresh_from_db()
    assert row.secrets == {}


@pytest.mark.parametrize(
    ("change", "status", "sentence"),
    [
        ({"max_iterations": "0"}, 400, "max_iterations"),
        ({"security_analyzer": "x"}, 400, "security_analyzer"),
        ({"version": "7"}, 409, "changed since you read them"),
        ({"version": ""}, 409, "changed since you read them"),
    ],
)
def test_invalid_form_shows_the_reason_and_keeps_its_fields(alice, path, change, status, sentence):
    answer = open_browser(alice).post(path, FORM | change)

    assert answer.status_code == status
    assert sentence in answer.text
    assert 'value="max_iterations" checked' in answer.text
    assert not OrganizationSettings.objects.exists()


def test_member_gets_403_and_stranger_404(alice, bob, charlie, path):
    assert open_browser(bob).post(path, FORM).status_code == 403
    assert open_browser(charlie).get(path).status_code == 404
    assert not OrganizationSettings.objects.exists()
    team = organizations.create_organization(user=alice, name="Team")
    Membership.objects.create(organization=team, user=bob, role=Membership.Role.ADMIN)
    team_path = f"/settings/organizations/{team.pk}/agents"
    assert open_browser(bob).post(team_path, FORM).status_code == 302
