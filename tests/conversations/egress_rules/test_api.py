"""The API of network rules and decisions: bodies, permissions and tenants."""

import pytest
from rest_framework.test import APIClient

from accounts.models import AuditEntry, Membership
from accounts.services import organizations
from conversations import services
from conversations.models import EgressDecision, EgressPolicy, HostRule, Sandbox
from tests.conftest import key_client
from tests.conversations.egress_rules.conftest import build_decision
from tests.factories.accounts import UserFactory
from tests.factories.conversations import (
    ConversationFactory,
    EgressDecisionFactory,
    EgressPolicyFactory,
    HostRuleFactory,
)

POLICY = "/api/v1/egress-policy"
DECISIONS = "/api/v1/egress-decisions"


def url(conversation, path=""):
    return f"/api/v1/conversations/{conversation.pk}/egress{path}"


def format_time(moment):
    return moment.isoformat().replace("+00:00", "Z")


def body_of(user):
    return {"id": str(user.pk), "name": user.get_full_name()}


@pytest.fixture
def team(alice):
    """Alice's team with one member of each role, as a dict from role to client."""
    organization = organizations.create_organization(user=alice, name="Team")
    clients = {"owner": key_client(alice, organization=organization)}
    for role in ("admin", "member", "billing", "auditor", "viewer"):
        user = UserFactory()
        Membership.objects.create(organization=organization, user=user, role=role)
        clients[role] = key_client(user, organization=organization)
    return organization, clients


class TestConversation:
    def test_default_state(self, api, conversation):
        response = api.get(url(conversation))

        assert response.status_code == 200
        assert response.json() == {
            "profile": "public",
            "set_by": "site",
            "site_profile": "public",
            "is_enforced": False,
            "may_decide": True,
            "hosts": [],
            "rules": [],
            "undecided": [],
        }

    def test_state_with_rules_and_refused_hosts(self, api, listed, alice, sandboxes, settings):
        settings.SANDBOX_EGRESS_HOSTS = ["site.example"]
        sandboxes.decisions = [build_decision(count=2), build_decision(port=80)]
        services.collect_decisions(conversation_id=listed.pk)
        rule = HostRuleFactory(conversation=listed, host="ok.example", decided_by=alice)
        orphan = HostRuleFactory(conversation=listed, host="no.example", allowed=False)
        # The provider `process`, whose name the fake has, controls no network.
        Sandbox.objects.update(provider="bubblewrap")

        assert api.get(url(listed)).json() == {
            "profile": "list",
            "set_by": "organization",
            "site_profile": "public",
            "is_enforced": True,
            "may_decide": True,
            "hosts": ["site.example", "pypi.org"],
            "rules": [
                {
                    "host": "no.example",
                    "allowed": False,
                    "decided_by": None,
                    "decided_at": format_time(orphan.decided_at),
                },
                {
                    "host": "ok.example",
                    "allowed": True,
                    "decided_by": body_of(alice),
                    "decided_at": format_time(rule.decided_at),
                },
            ],
            "undecided": [
                {
                    "host": "evil.example",
                    "port": 443,
                    "last_at": "2026-11-29T22:00:00.123000Z",
                    "count": 3,
                }
            ],
        }

    def test_rule_is_created_replaced_and_removed(self, api, listed, alice):
        created = api.post(url(listed, "/rules"), {"host": "Evil.example", "allowed": True}, "json")

        rule = HostRule.objects.get()
        assert created.status_code == 201
        assert created.json() == {
            "host": "evil.example",
            "allowed": True,
            "decided_by": body_of(alice),
            "decided_at": format_time(rule.decided_at),
        }
        replaced = api.post(
            url(listed, "/rules"), {"host": "evil.example", "allowed": False}, "json"
        )
        assert replaced.json()["allowed"] is False
        removed = api.delete(url(listed, "/rules/evil.example"))
        assert (removed.status_code, removed.content) == (204, b"")
        again = api.delete(url(listed, "/rules/evil.example"))
        assert (again.status_code, again.json()["code"]) == (404, "no-host-rule")
        entry = AuditEntry.objects.filter(action="egress.host_allowed").get()
        assert (entry.subject_id, entry.actor_kind) == (str(listed.pk), "key")

    def test_pattern_is_removed_by_its_url(self, api, listed):
        HostRuleFactory(conversation=listed, host="*.example.com")

        assert api.delete(url(listed, "/rules/*.example.com")).status_code == 204
        assert not HostRule.objects.exists()

    @pytest.mark.parametrize(
        ("body", "code", "detail"),
        [
            ({"host": "a b", "allowed": True}, "invalid-hosts", "host: “a b” is not a host name."),
            ({"host": "a.example"}, "invalid", "allowed: This field is required."),
            ({"host": "a.example", "allowed": "perhaps"}, "invalid", "allowed: Must be a valid boolean."),
        ],
    )  # fmt: skip
    def test_rule_that_is_not_valid_is_a_400(self, api, listed, body, code, detail):
        response = api.post(url(listed, "/rules"), body, "json")

        assert response.status_code == 400
        assert (response.json()["code"], response.json()["detail"]) == (code, detail)
        assert not HostRule.objects.exists()

    def test_roles_decide_and_read_as_they_may(self, team):
        organization, clients = team
        conversation = ConversationFactory(organization=organization, visibility="organization")
        body = {"host": "evil.example", "allowed": True}

        statuses = {
            role: (
                client.get(url(conversation)).status_code,
                client.get(url(conversation, "/decisions")).status_code,
                client.post(url(conversation, "/rules"), body, "json").status_code,
                client.delete(url(conversation, "/rules/evil.example")).status_code,
            )
            for role, client in clients.items()
        }

        assert statuses == {
            "owner": (200, 200, 201, 204),
            "admin": (200, 200, 201, 204),
            "member": (200, 200, 403, 403),
            "viewer": (200, 200, 403, 403),
            "billing": (404, 404, 404, 404),
            "auditor": (404, 404, 404, 404),
        }
        assert clients["member"].get(url(conversation)).json()["may_decide"] is False
        refused = clients["member"].post(url(conversation, "/rules"), body, "json").json()
        assert (refused["code"], refused["permission"]) == ("missing-permission", "egress.edit")

    def test_other_tenant_finds_nothing(self, listed, charlie):
        client = key_client(charlie)
        HostRuleFactory(conversation=listed, host="ok.example")

        assert client.get(url(listed)).status_code == 404
        assert client.get(url(listed, "/decisions")).status_code == 404
        assert client.post(url(listed, "/rules"), {"host": "x.example", "allowed": True}, "json").status_code == 404  # fmt: skip
        assert client.delete(url(listed, "/rules/ok.example")).status_code == 404
        assert [rule.host for rule in HostRule.objects.all()] == ["ok.example"]

    def test_external_conversation_has_nothing_to_decide(self, api, alice):
        external = ConversationFactory(created_by=alice, is_external=True)

        assert api.get(url(external)).json()["may_decide"] is False
        response = api.post(url(external, "/rules"), {"host": "x.example", "allowed": True}, "json")
        assert (response.status_code, response.json()["code"]) == (409, "published-elsewhere")


class TestDecisions:
    def test_decisions_are_paged_newest_first(self, api, listed, sandboxes):
        sandboxes.decisions = [
            build_decision(f"h{n}.example", at=f"2026-11-29T22:00:{n:02}Z") for n in range(5)
        ]
        services.collect_decisions(conversation_id=listed.pk)

        first = api.get(url(listed, "/decisions"), {"limit": 3}).json()
        second = api.get(url(listed, "/decisions"), {"limit": 3, "cursor": first["next"]}).json()

        hosts = [item["host"] for item in first["items"] + second["items"]]
        assert hosts == [f"h{n}.example" for n in (4, 3, 2, 1, 0)]
        assert second["next"] is None
        row = EgressDecision.objects.get(host="h4.example")
        assert first["items"][0] == {
            "id": str(row.pk),
            "conversation": str(listed.pk),
            "at": "2026-11-29T22:00:04Z",
            "host": "h4.example",
            "port": 443,
            "address": "",
            "allowed": False,
            "reason": "not-listed",
            "protocol": "connect",
            "count": 1,
        }

    def test_filters(self, api, listed):
        EgressDecisionFactory(conversation=listed, host="a.example", at="2026-11-01T00:00:00Z")
        EgressDecisionFactory(
            conversation=listed, host="b.example", at="2026-11-02T00:00:00Z", allowed=True
        )

        def hosts(**query):
            response = api.get(url(listed, "/decisions"), query)
            assert response.status_code == 200, response.json()
            return [item["host"] for item in response.json()["items"]]

        assert hosts() == ["b.example", "a.example"]
        assert hosts(host="a.example") == ["a.example"]
        assert hosts(allowed="true") == ["b.example"]
        assert hosts(allowed="false") == ["a.example"]
        assert hosts(since="2026-11-02T00:00:00Z") == ["b.example"]
        assert hosts(until="2026-11-02T00:00:00Z") == ["a.example"]
        unknown = api.get(url(listed, "/decisions"), {"hosts": "x"})
        assert unknown.status_code == 400
        assert unknown.json()["detail"] == "hosts: This parameter is not supported here."

    def test_decisions_of_other_conversations_are_left_out(self, api, listed, alice):
        EgressDecisionFactory(conversation=ConversationFactory(created_by=alice))

        assert api.get(url(listed, "/decisions")).json() == {"items": [], "next": None}


class TestOrganizationDecisions:
    def test_auditors_read_the_decisions_of_private_conversations_too(self, team):
        organization, clients = team
        private = EgressDecisionFactory(conversation=ConversationFactory(organization=organization))
        EgressDecisionFactory()  # in another organization

        statuses = {role: client.get(DECISIONS).status_code for role, client in clients.items()}
        items = clients["auditor"].get(DECISIONS).json()["items"]

        assert statuses == {
            "owner": 200,
            "admin": 200,
            "auditor": 200,
            "member": 403,
            "billing": 403,
            "viewer": 403,
        }
        assert [item["id"] for item in items] == [str(private.pk)]

    def test_session_of_a_member_sees_no_decisions_of_the_organization(self, team):
        organization, _ = team
        EgressDecisionFactory(conversation=ConversationFactory(organization=organization))
        member = organization.memberships.get(role="member").user
        client = APIClient()
        client.force_login(member)

        assert client.get(DECISIONS).json()["items"] == []
        named = client.get(DECISIONS, {"organization": str(organization.pk)})
        assert (named.status_code, named.json()["permission"]) == (403, "audit.view")

    def test_filters_by_conversation_host_and_organization(self, api, alice, team):
        organization, _ = team
        own = EgressDecisionFactory(
            conversation=ConversationFactory(created_by=alice), host="a.example"
        )
        EgressDecisionFactory(
            conversation=ConversationFactory(organization=organization), host="b.example"
        )
        session = APIClient()
        session.force_login(alice)

        def hosts(**query):
            return [item["host"] for item in session.get(DECISIONS, query).json()["items"]]

        assert hosts() == ["b.example", "a.example"]
        assert hosts(host="b.example") == ["b.example"]
        assert hosts(conversation=str(own.conversation_id)) == ["a.example"]
        assert hosts(organization=str(organization.pk)) == ["b.example"]


class TestPolicy:
    def test_policy_of_an_organization_that_has_set_nothing(self, api, settings):
        settings.SANDBOX_EGRESS, settings.SANDBOX_EGRESS_HOSTS = "list", ["site.example"]

        response = api.get(POLICY)

        assert response.status_code == 200
        assert response.json() == {
            "profile": "",
            "hosts": [],
            "site": {"profile": "list", "hosts": ["site.example"]},
            "updated_by": None,
            "updated_at": None,
        }

    def test_policy_is_set(self, api, alice):
        body = {"profile": "list", "hosts": ["PyPI.org", "*.example.com"]}

        response = api.put(POLICY, body, "json")

        row = EgressPolicy.objects.get()
        assert response.status_code == 200
        assert response.json() == {
            "profile": "list",
            "hosts": ["pypi.org", "*.example.com"],
            "site": {"profile": "public", "hosts": []},
            "updated_by": body_of(alice),
            "updated_at": format_time(row.updated_at),
        }
        assert api.get(POLICY).json() == response.json()

    def test_policy_of_the_named_organization_is_read(self, alice, team):
        organization, _ = team
        EgressPolicyFactory(organization=organization, profile="none")
        session = APIClient()
        session.force_login(alice)

        assert session.get(POLICY).json()["profile"] == ""
        named = session.get(POLICY, {"organization": str(organization.pk)})
        assert named.json()["profile"] == "none"

    @pytest.mark.parametrize(
        ("body", "detail"),
        [
            ({"profile": "all", "hosts": []}, 'profile: "all" is not a valid choice.'),
            ({"profile": "list"}, "hosts: This field is required."),
            ({"profile": "list", "hosts": ["http://x.example"]}, "hosts: “http://x.example” is a URL. Write only the host: x.example."),
        ],
    )  # fmt: skip
    def test_policy_that_is_not_valid_is_a_400(self, api, body, detail):
        response = api.put(POLICY, body, "json")

        assert (response.status_code, response.json()["detail"]) == (400, detail)
        assert not EgressPolicy.objects.exists()

    def test_every_role_reads_and_owner_and_admin_write(self, team, charlie):
        organization, clients = team
        body = {"profile": "none", "hosts": []}

        statuses = {
            role: (client.get(POLICY).status_code, client.put(POLICY, body, "json").status_code)
            for role, client in clients.items()
        }

        assert statuses == {
            "owner": (200, 200),
            "admin": (200, 200),
            "member": (200, 403),
            "billing": (200, 403),
            "auditor": (200, 403),
            "viewer": (200, 403),
        }
        stranger = APIClient()
        stranger.force_login(charlie)
        path = f"{POLICY}?organization={organization.pk}"
        assert stranger.get(path).status_code == 404
        assert stranger.put(path, {"profile": "", "hosts": []}, "json").status_code == 404
        assert EgressPolicy.objects.get().profile == "none"
