"""Organizations as pages: make, invite, join, switch, change roles, leave."""

import re

import pytest
from django.test import Client

from accounts.models import Invitation, Membership, Organization
from accounts.services import organizations as verbs
from conversations.models import Conversation


@pytest.fixture
def team(alice):
    return verbs.create_organization(user=alice, name="Team")


def browser(user):
    client = Client()
    client.force_login(user)
    return client


def act(user, team, action, **form):
    return browser(user).post(f"/settings/organizations/{team.pk}/{action}", form)


def invite(user, team, **form):
    form = {"role": "member", "days": "7", "max_uses": "1"} | form
    page = act(user, team, "invite", **form)
    found = re.search(r"data-secret>http://testserver(/invitations/[^<]+)<", page.text)
    return page, found and found[1]


def role_of(team, user):
    found = Membership.objects.filter(organization=team, user=user).first()
    return found and found.role


def test_making_one_leads_to_its_page(alice):
    client = browser(alice)

    made = client.post("/settings/organizations", {"name": "Rockets <b>"})
    page = client.get(made.headers["Location"])

    assert "Rockets &lt;b&gt;" in page.text
    assert role_of(Organization.objects.get(name="Rockets <b>"), alice) == "owner"


def test_a_bad_name_is_said_on_the_form(alice):
    answer = browser(alice).post("/settings/organizations", {"name": " "})

    assert answer.status_code == 400
    assert "Enter a name of 1 to 120 printable characters" in answer.text


def test_a_link_is_shown_once_and_joins_by_the_button(alice, charlie, team):
    page, path = invite(alice, team, role="viewer")
    client = browser(charlie)

    seen = client.get(path)
    assert role_of(team, charlie) is None
    joined = client.post(path)

    assert (page.status_code, seen.status_code, joined.status_code) == (201, 200, 302)
    assert "Join “Team”" in seen.text
    assert role_of(team, charlie) == "viewer"
    assert path not in browser(alice).get(f"/settings/organizations/{team.pk}").text
    assert client.get(path).status_code == 404


def test_a_stranger_signs_in_first_and_comes_back(client, alice, team):
    _, path = invite(alice, team)

    answer = client.get(path)

    assert answer.headers["Location"] == f"/sign-in?next={path}"


def test_roles_are_given_and_taken_and_members_removed(alice, charlie, team):
    Membership.objects.create(organization=team, user=charlie, role="viewer")

    assert act(alice, team, "role", member=charlie.pk, role="admin").status_code == 302
    assert role_of(team, charlie) == "admin"
    assert act(alice, team, "remove", member=charlie.pk).status_code == 302
    assert role_of(team, charlie) is None


def test_a_refusal_shows_its_sentence(alice, charlie, team):
    Membership.objects.create(organization=team, user=charlie, role="viewer")

    last = act(alice, team, "leave")
    lacking = act(charlie, team, "rename", name="Mine")

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
def test_forms_that_no_page_sends_are_400(alice, team, action, form):
    assert act(alice, team, action, **form).status_code == 400


def test_an_unknown_action_and_a_strange_organization_are_404(alice, charlie, team):
    assert act(alice, team, "explode").status_code == 404
    assert act(charlie, team, "leave").status_code == 404
    assert browser(charlie).get(f"/settings/organizations/{team.pk}").status_code == 404


def test_taking_an_invitation_back(alice, team):
    _, path = invite(alice, team)

    act(alice, team, "take-back", invitation=Invitation.objects.get().pk)

    assert browser(alice).get(path).status_code == 404


def test_what_is_new_belongs_where_one_works(alice, team):
    client = browser(alice)
    prompt = {"message": "hello", "policy": "never"}

    client.post("/", prompt)
    client.post(f"/settings/organizations/{team.pk}/switch")
    client.post("/", prompt)

    found = Conversation.objects.order_by("created_at").values_list("organization_id", flat=True)
    assert list(found) == [alice.personal_organization.pk, team.pk]


def test_somebody_removed_works_in_their_own_again(alice, charlie, team):
    Membership.objects.create(organization=team, user=charlie, role="member")
    client = browser(charlie)
    client.post(f"/settings/organizations/{team.pk}/switch")
    verbs.remove_member(organization=team, by=alice, user_id=charlie.pk)

    client.post("/", {"message": "hello", "policy": "never"})

    assert Conversation.objects.get().organization_id == charlie.personal_organization.pk


def test_members_of_a_suspended_one_hear_why(alice, team):
    verbs.suspend_organization(organization=team)

    page = browser(alice).get(f"/settings/organizations/{team.pk}")

    assert "This organization is suspended" in page.text
    assert act(alice, team, "rename", name="x").status_code == 403


def test_the_way_to_an_invitation_says_that_it_takes_an_account(client, alice, team):
    _, path = invite(alice, team)

    assert "You have an invitation." in client.get(path, follow=True).text
    assert "You have an invitation." not in client.get("/sign-in").text


def test_one_goes_to_work_in_it_from_its_page(alice, team):
    shown = browser(alice).get(f"/settings/organizations/{team.pk}").text

    assert "Switch to this organization" in shown
    assert "other people cannot join" not in shown
