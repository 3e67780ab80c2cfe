"""The network rules: what a sandbox receives, and when it receives a change."""

import pytest

from accounts.models import AuditEntry
from conversations import services
from conversations.models import EgressPolicy, HostRule, Sandbox
from conversations.sandboxes.egress.policy import Policy, Profile, Reason
from conversations.sandboxes.provider import State
from conversations.services import egress
from tests.conversations.conftest import list_queued_jobs
from tests.conversations.egress_rules.conftest import build_decision, run_pushes
from tests.factories.conversations import ConversationFactory, HostRuleFactory, SandboxFactory


def list_audit(prefix="egress."):
    rows = AuditEntry.objects.filter(action__startswith=prefix).order_by("position")
    return [(row.action, row.before, row.after) for row in rows]


def decide(conversation, by, host="evil.example", *, allowed=True):
    return services.decide_host(conversation_id=conversation.pk, host=host, allowed=allowed, by=by)


class TestPolicy:
    def test_default_policy_follows_the_settings(self, conversation, settings):
        settings.SANDBOX_EGRESS_HOSTS = ["pypi.org"]
        settings.SANDBOX_PRIVATE_HOSTS = ["10.1.0.0/16"]
        settings.GATEWAY_URL = "http://127.0.0.1:8000"

        assert services.build_policy(conversation) == Policy(
            profile=Profile.PUBLIC,
            hosts=("pypi.org",),
            private=("10.1.0.0/16",),
            gateway="http://127.0.0.1:8000",
        )

    def test_site_organization_and_conversation_add_up_and_a_refusal_wins(
        self, listed, alice, settings
    ):
        settings.SANDBOX_EGRESS_HOSTS = ["site.example"]
        HostRuleFactory(conversation=listed, host="yes.example")
        HostRuleFactory(conversation=listed, host="pypi.org", allowed=False)

        policy = services.build_policy(listed)

        assert policy.profile is Profile.LIST
        assert set(policy.hosts) == {"site.example", "pypi.org", "yes.example"}
        assert policy.denied == ("pypi.org",)
        assert policy.decide("pypi.org", 443).reason is Reason.DENIED
        assert policy.decide("yes.example", 443).allowed

    def test_rules_of_other_conversations_and_organizations_do_not_count(
        self, listed, conversation, charlie
    ):
        other = ConversationFactory(created_by=charlie)
        HostRuleFactory(conversation=other, host="other.example")

        assert services.build_policy(listed).hosts == ("pypi.org",)
        assert services.build_policy(other).profile is Profile.PUBLIC

    def test_profiles_of_the_model_are_those_of_the_proxy(self):
        assert set(EgressPolicy.Profile.values) == {profile.value for profile in Profile}

    def test_start_gives_the_sandbox_its_policy(self, listed, sandboxes):
        assert (
            sandboxes.specs[0].policy.profile is Profile.PUBLIC
        )  # before the organization's choice
        sandboxes.state = State.STOPPED
        services.stop_sandbox(conversation_id=listed.pk)
        services.wake(conversation_id=listed.pk)

        services.start_conversation(conversation_id=listed.pk)

        assert sandboxes.specs[-1].policy == services.build_policy(listed)
        assert sandboxes.policies[-1] == services.build_policy(listed)

    def test_rule_that_is_decided_during_a_start_reaches_the_sandbox(
        self, conversation, alice, sandboxes, monkeypatch
    ):
        start = sandboxes.start

        def start_slowly(spec):
            handle = start(spec)
            decide(conversation, alice, "late.example", allowed=False)
            run_pushes()  # The handle is not stored yet, so these jobs find no sandbox.
            return handle

        monkeypatch.setattr(sandboxes, "start", start_slowly)

        services.start_conversation(conversation_id=conversation.pk)

        assert sandboxes.specs[0].policy.denied == ()
        assert [policy.denied for policy in sandboxes.policies] == [("late.example",)]


class TestHostRule:
    def test_allowed_host_is_audited_logged_and_sent_to_the_running_sandbox(
        self, listed, alice, sandboxes
    ):
        rule = decide(listed, alice, "EVIL.example.")

        assert (rule.host, rule.allowed, rule.decided_by) == ("evil.example", True, alice)
        assert list_audit() == [
            ("egress.host_allowed", {}, {"host": "evil.example", "allowed": True})
        ]
        change = listed.events.get(kind="HostRuleChange")
        assert change.payload == (
            '{"host":"evil.example","allowed":true,'
            '"message":"evil.example was allowed for this conversation."}'
        )
        run_pushes()
        assert sandboxes.policies[-1].decide("evil.example", 443).reason is Reason.LISTED

    def test_repeated_decision_changes_nothing(self, listed, alice):
        decide(listed, alice)
        first = HostRule.objects.values().get()

        decide(listed, alice)

        assert HostRule.objects.values().get() == first
        assert len(list_audit()) == 1
        assert len(list_queued_jobs("push_egress_policy")) == 1

    def test_other_decision_replaces_the_rule(self, listed, alice, bob):
        decide(listed, alice)

        rule = decide(listed, bob, allowed=False)

        assert (HostRule.objects.count(), rule.allowed, rule.decided_by) == (1, False, bob)
        assert list_audit()[-1] == (
            "egress.host_refused",
            {"host": "evil.example", "allowed": True},
            {"host": "evil.example", "allowed": False},
        )

    def test_removed_rule_lets_the_profile_decide_again(self, listed, alice, sandboxes):
        decide(listed, alice)

        services.remove_host_rule(conversation_id=listed.pk, host="Evil.example")

        run_pushes()
        assert sandboxes.policies[-1].hosts == ("pypi.org",)
        assert list_audit()[-1] == (
            "egress.rule_removed",
            {"host": "evil.example", "allowed": True},
            {},
        )
        for host in ("evil.example", "not a host"):
            with pytest.raises(services.NoHostRule):
                services.remove_host_rule(conversation_id=listed.pk, host=host)

    @pytest.mark.parametrize(
        ("host", "fault"),
        [
            ("https://evil.example/x", "host: “https://evil.example/x” is a URL."),
            ("evil.example:443", "host: “evil.example:443” has a port."),
            ("*", "host: “*” would match every host."),
            ("10.0.0.0/8", "host: “10.0.0.0/8” is a block of addresses"),
            ("", "host: A host pattern is empty."),
        ],
    )
    def test_host_that_is_not_valid_is_rejected_with_its_fault(self, listed, alice, host, fault):
        with pytest.raises(services.InvalidHosts) as caught:
            decide(listed, alice, host)

        assert caught.value.detail.startswith(fault)
        assert not HostRule.objects.exists()

    def test_number_of_rules_is_limited(self, listed, alice, monkeypatch):
        monkeypatch.setattr(egress, "HOSTS_MAX", 1)
        decide(listed, alice, "one.example")

        with pytest.raises(services.InvalidHosts, match="at most 1 rules"):
            decide(listed, alice, "two.example")

        assert decide(listed, alice, "one.example", allowed=False).allowed is False

    def test_conversation_of_another_program_has_no_rules(self, alice):
        external = ConversationFactory(created_by=alice, is_external=True)

        with pytest.raises(services.PublishedElsewhere):
            decide(external, alice)

    def test_failed_transaction_queues_no_job(self, listed, alice, monkeypatch):
        def fail(**fields):
            raise RuntimeError

        monkeypatch.setattr(egress.audit, "record", fail)

        with pytest.raises(RuntimeError):
            decide(listed, alice)

        assert not HostRule.objects.exists()
        assert list_queued_jobs("push_egress_policy") == []


class TestPush:
    def test_stopped_sandbox_gets_no_policy(self, listed, sandboxes):
        Sandbox.objects.update(observed=Sandbox.Observed.STOPPED)
        before = len(sandboxes.policies)

        services.push_egress_policy(conversation_id=listed.pk)

        assert len(sandboxes.policies) == before

    def test_push_for_a_deleted_conversation_does_nothing(self, db, sandboxes):
        services.push_egress_policy(conversation_id="018f0000-0000-7000-8000-000000000000")

        assert sandboxes.policies == []


class TestOrganizationPolicy:
    def set_policy(self, alice, profile="list", hosts=("PyPI.org", "pypi.org", "*.Example.com")):
        return services.set_egress_policy(
            organization=alice.personal_organization, profile=profile, hosts=hosts, by=alice
        )

    def test_policy_is_stored_audited_and_sent_to_all_running_sandboxes(
        self, running, alice, charlie, sandboxes
    ):
        other = ConversationFactory(created_by=alice, sandbox=SandboxFactory(user=alice))
        Sandbox.objects.filter(pk=other.sandbox_id).update(observed="running")
        foreign = ConversationFactory(created_by=charlie, sandbox=SandboxFactory(user=charlie))
        Sandbox.objects.filter(pk=foreign.sandbox_id).update(observed="running")

        row = self.set_policy(alice)

        assert (row.profile, row.hosts) == ("list", ["pypi.org", "*.example.com"])
        assert list_audit() == [
            (
                "egress.policy_changed",
                {"profile": "", "hosts": []},
                {"profile": "list", "hosts": ["pypi.org", "*.example.com"]},
            )
        ]
        jobs = {job["conversation_id"] for job in list_queued_jobs("push_egress_policy")}
        assert jobs == {str(running.pk), str(other.pk)}
        run_pushes()
        assert sandboxes.policies[-1].profile is Profile.LIST

    def test_repeated_policy_changes_nothing(self, running, alice):
        self.set_policy(alice)
        first = EgressPolicy.objects.values().get()

        self.set_policy(alice)

        assert EgressPolicy.objects.values().get() == first
        assert len(list_audit()) == 1

    def test_empty_profile_means_that_of_the_site(self, running, alice, settings):
        settings.SANDBOX_EGRESS = "none"
        self.set_policy(alice, profile="", hosts=["pypi.org"])

        state = services.describe_egress(conversation=running)

        assert (state.profile, state.set_by) == ("none", "site")
        assert list_audit() == [("egress.policy_changed", {"hosts": []}, {"hosts": ["pypi.org"]})]

    @pytest.mark.parametrize(
        ("fields", "fault"),
        [
            ({"profile": "all"}, "profile: must be one of public, list, none, open, or empty."),
            ({"hosts": ["pypi.org", "a b"]}, "hosts: “a b” is not a host name."),
            ({"hosts": [f"h{n}.example" for n in range(1_001)]}, "hosts: the list may have at most 1,000 hosts."),
        ],
    )  # fmt: skip
    def test_value_that_is_not_valid_is_rejected(self, alice, fields, fault):
        with pytest.raises(services.InvalidHosts) as caught:
            self.set_policy(alice, **fields)

        assert caught.value.detail == fault
        assert not EgressPolicy.objects.exists()


def test_undecided_hosts_leave_out_hosts_that_are_decided_or_listed_now(listed, alice, sandboxes):
    sandboxes.decisions = [
        build_decision("one.example"),
        build_decision("one.example", at="2026-11-29T22:00:09Z", port=80, count=3),
        build_decision("two.example"),
        build_decision("three.example"),
        build_decision("four.test"),
    ]
    services.collect_decisions(conversation_id=listed.pk)
    decide(listed, alice, "two.example", allowed=False)
    decide(listed, alice, "*.test")

    undecided = services.describe_egress(conversation=listed).undecided

    assert [(item.host, item.port, item.count) for item in undecided] == [
        ("one.example", 443, 4),
        ("three.example", 443, 1),
    ]
