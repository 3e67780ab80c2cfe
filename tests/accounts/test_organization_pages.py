"""The pages of organizations: create, invite, join, switch, change roles, leave."""

import re

import pytest
from django.test import Client

from accounts.models import Invitation, Membership, Organization
from accounts.services import organizations as verbs
from conversations.models import Conversation


@pytest.fixture
def team(alice):
    return verbs.create_organization(user=alice, name="Team")


def open_browser(user):
    client = Client()
    client.force_login(user)
    return client


def post_action(user, team, action, **form):
    return open_browser(user).post(f"/settings/organizations/{team.pk}/{action}", form)


def invite(user, team, **form):
    form = {"role": "member", "days": "7", "max_uses": "1"} | form
    page = post_action(user, team, "invite", **form)
    link = re.search(r"data-secret>http://testserver(/invitations/[^<]+)<", page.text)
    return page, link and link[1]


def read_role(team, user):
    membership = Membership.objects.filter(organization=team, user=user).first()
    return membership and membership.role


def test_new_organization_redirects_to_its_page(alice):
    client = open_browser(alice)

    response = client.post("/settings/organizations", {"name": "Rockets <b>"})
    page = client.get(response.headers["Location"])

    assert "Rockets &lt;b&gt;" in page.text
    assert read_role(Organization.objects.get(name="Rockets <b>"), alice) == "owner"


def test_bad_name_is_400_with_a_sentence(alice):
    answer = open_browser(alice).post("/settings/organizations", {"name": " "})

    assert answer.status_code == 400
    assert "Enter a name of 1 to 120 printable characters" in answer.text


def test_invitation_link_is_shown_once_and_its_button_joins(alice, charlie, team):
    page, path = invite(alice, team, role="viewer")
    client = open_browser(charlie)

    shown = client.get(path)
    assert read_role(team, charlie) is None
    joined = client.post(path)

    assert (page.status_code, shown.status_code, joined.status_code) == (201, 200, 302)
    assert "Join “Team”" in shown.text
    assert read_role(team, charlie) == "viewer"
    again = open_browser(alice).get(f"/settings/organizations/{team.pk}")
    assert (again.status_code, path in again.text) == (200, False)
    assert client.get(path).status_code == 404


def test_anonymous_visitor_of_an_invitation_is_sent_to_sign_in_and_back(client, alice, team):
    _, path = invite(alice, team)

    answer = client.get(path)

    assert answer.headers["Location"] == f"/sign-in?next={path}"


def test_owner_changes_a_role_and_removes_the_member(alice, charlie, team):
    Membership.objects.create(organization=team, user=charlie, role="viewer")

    assert post_action(alice, team, "role", member=charlie.pk, role="admin").status_code == 302
    assert read_role(team, charlie) == "admin"
    assert post_action(alice, team, "remove", member=charlie.pk).status_code == 302
    assert read_role(team, charlie) is None


def test_refused_action_shows_the_reason(alice, charlie, team):
    Membership.objects.create(organization=team, user=charlie, role="viewer")

    last = post_action(alice, team, "leave")
    lacking = post_action(charlie, team, "rename", name="Mine")

    assert (last.status_code, lacking.status_code) == (409, 403)
    assert "this is the last owner" in last.text
    assert "organization.edit" in lacking.text


@pytest.mark.parametrize(
    ("action", "form"),
    [
        ("role", {"member": "x", "role": "admin"}),
        ("role", {"role": "admin"}),
        ("remove", {}),
        ("invite", {"role": "king", "days": "7", "max_uses": "1"}),
        ("invite", {"role": "member", "days": "-1", "max_uses": "1"}),
        ("invite", {"role": "member", "days": "²", "max_uses": "1"}),
        ("take-back", {"invitation": "x"}),
    ],
)
def test_malformed_form_is_400(alice, team, action, form):
    assert post_action(alice, team, action, **form).status_code == 400


def test_unknown_action_and_foreign_organization_are_404(alice, charlie, team):
    assert post_action(alice, team, "explode").status_code == 404
    assert post_action(charlie, team, "leave").status_code == 404
    assert open_browser(charlie).get(f"/settings/organizations/{team.pk}").status_code == 404


def test_link_of_a_revoked_invitation_is_404(alice, team):
    _, path = invite(alice, team)
    assert open_browser(alice).get(path).status_code == 200

    post_action(alice, team, "take-back", invitation=Invitation.objects.get().pk)

    assert open_browser(alice).get(path).status_code == 404


def test_new_conversation_belongs_to_the_current_organization(alice, team):
    client = open_browser(alice)
    prompt = {"message": "hello", "policy": "never"}

    client.post("/", prompt)
    client.post(f"/settings/organizations/{team.pk}/switch")
    client.post("/", prompt)

    ids = Conversation.objects.order_by("created_at").values_list("organization_id", flat=True)
    assert list(ids) == [alice.personal_organization.pk, team.pk]


def test_removed_member_works_in_the_personal_organization_again(alice, charlie, team):
    Membership.objects.create(organization=team, user=charlie, role="member")
    client = open_browser(charlie)
    client.post(f"/settings/organizations/{team.pk}/switch")
    verbs.remove_member(organization=team, by=alice, user_id=charlie.pk)

    client.post("/", {"message": "hello", "policy": "never"})

    assert Conversation.objects.get().organization_id == charlie.personal_organization.pk


def test_page_of_a_suspended_organization_says_so_and_actions_are_403(alice, team):
    verbs.suspend_organization(organization=team)

    page = open_browser(alice).get(f"/settings/organizations/{team.pk}")

    assert "This organization is suspended" in page.text
    assert post_action(alice, team, "rename", name="x").status_code == 403


def test_sign_in_page_mentions_the_invitation_that_led_there(client, alice, team):
    _, path = invite(alice, team)

    assert "You have an invitation." in client.get(path, follow=True).text
    plain = client.get("/sign-in")
    assert (plain.status_code, "You have an invitation." in plain.text) == (200, False)


def test_page_of_a_team_has_the_switch_button(alice, team):
    shown = open_browser(alice).get(f"/settings/organizations/{team.pk}").text

    assert "Switch to this organization" in shown
    assert "other people cannot join" not in shown


def test_used_link_that_a_member_opens_again_leads_to_the_organization(alice, team, charlie):
    _, path = invite(alice, team)
    browser = open_browser(charlie)
    browser.post(path)

    response = browser.get(path)

    assert response.status_code == 404
    assert f'href="/settings/organizations/{team.pk}"' in response.content.decode()
    assert browser.post(path).url == f"/settings/organizations/{team.pk}"
