"""The pages of network rules without JavaScript: settings, details of a conversation, plain text, and the admin."""

import json
import re

import pytest
from django.test import Client

from accounts import services as accounts
from conversations import services
from conversations.models import EgressDecision, EgressPolicy, HostRule
from tests.conversations.egress_rules.conftest import build_decision
from tests.factories.conversations import EgressDecisionFactory, HostRuleFactory

SETTINGS = "/settings/sandboxes"


def open_browser(user):
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def refused(listed, sandboxes):
    """Return a conversation whose sandbox was refused a host."""
    sandboxes.decisions = [build_decision(count=2)]
    services.collect_decisions(conversation_id=listed.pk)
    listed.visibility = "organization"
    listed.save(update_fields=["visibility"])
    return listed


class TestSettings:
    def test_owner_chooses_a_profile_and_hosts(self, alice):
        page = open_browser(alice)
        assert "As set for this server: any public host" in page.get(SETTINGS).text

        response = page.post(
            SETTINGS, {"profile": "list", "hosts": "PyPI.org\r\n*.example.com, b.example\n"}
        )

        assert response.status_code == 302
        row = EgressPolicy.objects.get()
        assert (row.profile, row.hosts) == ("list", ["pypi.org", "*.example.com", "b.example"])
        shown = page.get(response.headers["Location"]).text
        assert "Saved. Running sandboxes follow the new profile at once." in shown
        assert "pypi.org\n*.example.com\nb.example</textarea>" in shown
        assert re.search(r'value="list" checked', shown)
        assert "Last changed by Alice" in shown

    def test_host_that_is_not_valid_is_shown_with_its_fault_and_the_entered_text(self, alice):
        response = open_browser(alice).post(SETTINGS, {"profile": "list", "hosts": "a.example x/y"})

        assert response.status_code == 400
        assert "Listed hosts: “x/y” is not a host." in response.text
        assert "a.example x/y</textarea>" in response.text
        assert not EgressPolicy.objects.exists()

    def test_member_sees_the_profile_but_cannot_change_it(self, alice, bob):
        page = open_browser(bob)
        path = f"{SETTINGS}?organization={alice.personal_organization.pk}"

        shown = page.get(path).text
        assert "Only an owner or admin can change it." in shown
        assert '<fieldset class="form bare" disabled>' in shown
        refused = page.post(path, {"profile": "none", "hosts": ""})
        assert refused.status_code == 403
        assert "egress.edit" in refused.text
        assert not EgressPolicy.objects.exists()

    def test_other_organization_is_not_found(self, alice, charlie):
        path = f"{SETTINGS}?organization={alice.personal_organization.pk}"

        assert open_browser(charlie).get(path).status_code == 404


class TestDetails:
    def test_owner_allows_a_refused_host_and_removes_the_rule(self, refused, alice):
        page = open_browser(alice)
        path = f"/conversations/{refused.pk}/details"
        shown = page.get(path).text
        assert "Only listed hosts." in shown
        assert "Port 443, refused 2 times" in shown
        assert "does not follow the profile" in shown  # the fake is named `process`

        allowed = page.post(path, {"intent": "host", "host": "evil.example", "answer": "allow"}, follow=True)  # fmt: skip
        assert "evil.example is allowed for this conversation." in allowed.text
        assert "by Alice" in allowed.text
        assert HostRule.objects.get().allowed is True
        removed = page.post(path, {"intent": "unrule", "host": "evil.example"}, follow=True)
        assert "The rule was removed." in removed.text
        assert not HostRule.objects.exists()

    def test_host_that_is_not_valid_shows_its_fault(self, refused, alice):
        path = f"/conversations/{refused.pk}/details"

        response = open_browser(alice).post(
            path, {"intent": "host", "host": "*", "answer": "allow"}
        )

        assert response.status_code == 400
        assert "Host: “*” would match every host." in response.text

    def test_member_reads_who_may_decide_but_has_no_buttons(self, refused, bob):
        page = open_browser(bob)
        path = f"/conversations/{refused.pk}/details"

        shown = page.get(path).text
        assert "An owner or admin of the organization can allow this host." in shown
        assert 'value="host"' not in shown
        answer = page.post(path, {"intent": "host", "host": "evil.example", "answer": "allow"})
        assert answer.status_code == 403
        assert not HostRule.objects.exists()

    def test_newest_connections_are_listed_in_words(self, refused, alice):
        shown = open_browser(alice).get(f"/conversations/{refused.pk}/details").text

        assert "<code>evil.example:443</code> × 2" in shown
        assert "refused: not listed" in shown

    def test_host_of_a_hostile_sandbox_is_escaped(self, refused, alice, sandboxes):
        sandboxes.decisions.append(build_decision("<script>alert(1)</script>", reason="malformed"))
        services.collect_decisions(conversation_id=refused.pk)

        shown = open_browser(alice).get(f"/conversations/{refused.pk}/details").text

        assert "&lt;script&gt;alert(1)" in shown
        assert "<script>alert" not in shown


def test_plain_page_tells_the_question_and_links_to_the_decision(refused, alice):
    shown = open_browser(alice).get(f"/conversations/{refused.pk}?plain=1").text

    assert "The sandbox tried to reach evil.example on port 443." in shown
    assert f'href="/conversations/{refused.pk}/details#network"' in shown


class TestAdmin:
    @pytest.fixture
    def staff(self, db):
        user = accounts.create_user(
            email="root@example.com", password="correct horse battery", is_staff=True, is_superuser=True
        )  # fmt: skip
        return open_browser(user)

    def test_decisions_are_searched_and_filtered(self, staff, refused):
        EgressDecisionFactory(host="other.example", allowed=True, reason="public")
        path = "/admin/conversations/egressdecision/"

        def hosts(**query):
            response = staff.get(path, query)
            assert response.status_code == 200
            return {host for host in ("evil.example", "other.example") if host in response.text}

        assert hosts() == {"evil.example", "other.example"}
        assert hosts(q="evil") == {"evil.example"}
        assert hosts(q=str(refused.pk)) == {"evil.example"}
        assert hosts(q="alice@example.com") == {"evil.example"}
        assert hosts(allowed__exact="1") == {"other.example"}
        assert hosts(reason="not-listed") == {"evil.example"}

    def test_pages_are_read_only(self, staff, refused):
        HostRuleFactory(conversation=refused)
        for model in (EgressDecision, EgressPolicy, HostRule):
            name = model._meta.model_name
            pk = model.objects.first().pk
            assert staff.get(f"/admin/conversations/{name}/{pk}/change/").status_code == 200
            assert staff.post(f"/admin/conversations/{name}/{pk}/change/", {}).status_code == 403
            assert staff.post(f"/admin/conversations/{name}/{pk}/delete/", {}).status_code == 403
            assert staff.get(f"/admin/conversations/{name}/add/").status_code == 403

    def test_policy_links_to_its_changes_in_the_audit_log(self, staff, alice):
        row = services.set_egress_policy(
            organization=alice.personal_organization, profile="none", hosts=[], by=alice
        )

        page = staff.get(f"/admin/conversations/egresspolicy/{row.pk}/change/").text
        link = re.search(r'href="(/admin/accounts/auditentry/\?q=[^"]+)"', page)[1]

        assert "egress.policy_changed" in staff.get(link).text


def test_page_data_of_the_live_page_has_the_network_tab(refused, alice):
    shown = open_browser(alice).get(f"/conversations/{refused.pk}").text

    assert 'id="tab-network"' in shown
    assert json.loads(re.search(r'id="page" type="application/json">(.*?)</script>', shown)[1])
