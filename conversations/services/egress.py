"""The network rules of sandboxes: policies of organizations, rules of conversations, and policies for providers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

import orjson
from django.conf import settings
from django.db import transaction
from django.db.models import Max, Sum
from django.utils import timezone

from accounts.models import Organization, User
from accounts.services import audit
from conversations import announcing, queue
from conversations.models import (
    Conversation,
    EgressDecision,
    EgressPolicy,
    Event,
    HostRule,
    NewEvent,
    Sandbox,
)
from conversations.sandboxes.egress.hosts import BadHost, HostSet, normalize_pattern
from conversations.sandboxes.egress.policy import Policy, Profile, Reason
from conversations.sandboxes.provider import get_provider
from conversations.services.state import require_agent
from lib.problems import Problem

HOSTS_MAX = 1_000
"""The largest number of hosts in the list of an organization, and of rules in a conversation."""
QUESTIONS_MAX = 50
"""The largest number of refused hosts about which a conversation asks."""
WITHOUT_CONTROL = frozenset({"process"})
"""The providers whose sandboxes do not follow network profiles."""
LIVE = (Sandbox.Observed.STARTING, Sandbox.Observed.RUNNING)


class InvalidHosts(Problem):
    """A host, a pattern or a profile is not valid. ``detail`` names the fault."""

    code = "invalid-hosts"


class NoHostRule(Problem):
    """The conversation has no rule for the host."""

    status = 404
    code = "no-host-rule"
    sentence = "This conversation has no rule for this host."


@dataclass(frozen=True, slots=True)
class SiteEgress:
    """The network settings of the site, which apply to organizations that have set nothing."""

    profile: str
    hosts: Sequence[str]


@dataclass(frozen=True, slots=True)
class RefusedHost:
    """A host that was refused because it is in no list, and about which nobody has decided."""

    host: str
    port: int
    """One of the ports that were refused."""
    last_at: datetime
    count: int
    """The number of refused connections."""


@dataclass(frozen=True, slots=True)
class EgressState:
    """The network rules in force for a conversation."""

    profile: str
    set_by: str
    """``site`` or ``organization``: whose choice the profile is."""
    site_profile: str
    is_enforced: bool
    """Whether the provider of the conversation's sandbox follows network profiles."""
    hosts: Sequence[str]
    """The hosts that the site and the organization list, without the rules of the conversation."""
    rules: Sequence[HostRule]
    undecided: Sequence[RefusedHost]


def site_egress() -> SiteEgress:
    """Return the network settings of the site."""
    return SiteEgress(settings.SANDBOX_EGRESS, list(settings.SANDBOX_EGRESS_HOSTS))


def get_egress_policy(*, organization_id: UUID) -> EgressPolicy:
    """Return the network settings of an organization. The row is not saved if the organization has set nothing."""
    row = EgressPolicy.objects.select_related("updated_by").filter(organization_id=organization_id)
    return row.first() or EgressPolicy(organization_id=organization_id)


def build_policy(conversation: Conversation) -> Policy:
    """Return the network rules of a conversation's sandbox, for its provider."""
    chosen = get_egress_policy(organization_id=conversation.organization_id)
    rules = HostRule.objects.filter(conversation=conversation).values_list("host", "allowed")
    return Policy(
        profile=Profile(chosen.profile or settings.SANDBOX_EGRESS),
        hosts=(
            *settings.SANDBOX_EGRESS_HOSTS,
            *chosen.hosts,
            *(host for host, allowed in rules if allowed),
        ),
        denied=tuple(host for host, allowed in rules if not allowed),
        private=tuple(settings.SANDBOX_PRIVATE_HOSTS),
        gateway=settings.GATEWAY_URL,
    )


def describe_egress(*, conversation: Conversation) -> EgressState:
    """Return the network rules in force for a conversation, and the refused hosts about which nobody has decided."""
    chosen = get_egress_policy(organization_id=conversation.organization_id)
    policy = build_policy(conversation)
    rules = HostRule.objects.filter(conversation=conversation).select_related("decided_by")
    rows = (
        EgressDecision.objects.filter(conversation=conversation, reason=Reason.NOT_LISTED.value)
        .values("host")
        .annotate(last_at=Max("at"), last_port=Max("port"), times=Sum("count"))
        .order_by("-last_at", "host")[:QUESTIONS_MAX]
    )
    sandbox = conversation.sandbox
    return EgressState(
        profile=policy.profile.value,
        set_by="organization" if chosen.profile else "site",
        site_profile=settings.SANDBOX_EGRESS,
        is_enforced=sandbox is not None and sandbox.provider not in WITHOUT_CONTROL,
        hosts=HostSet.of([*settings.SANDBOX_EGRESS_HOSTS, *chosen.hosts]).patterns,
        rules=list(rules.order_by("host")),
        undecided=[
            RefusedHost(row["host"], row["last_port"], row["last_at"], row["times"])
            for row in rows
            if is_undecided(policy, row["host"], row["last_port"])
        ],
    )


def is_undecided(policy: Policy, host: str, port: int) -> bool:
    """Return whether a policy refuses a host because it is in no list. A host that is not valid is never allowed."""
    try:
        return policy.decide(host, port).reason is Reason.NOT_LISTED
    except BadHost:
        return False


@transaction.atomic
def decide_host(*, conversation_id: UUID, host: str, allowed: bool, by: User) -> HostRule:
    """Allow or refuse a host, or a pattern such as ``*.example.com``, for the sandbox of one conversation.

    A job sends the new rules to a running sandbox. Safe to repeat. Raise ``InvalidHosts`` if the host is not valid or
    the conversation has too many rules, and ``PublishedElsewhere`` if the conversation has no sandbox here.
    """
    pattern = _clean_pattern(host)
    conversation = Conversation.objects.select_for_update().get(pk=conversation_id)
    require_agent(conversation)
    rules = HostRule.objects.filter(conversation=conversation)
    rule = rules.filter(host=pattern).first()
    if rule is not None and rule.allowed == allowed:
        return rule
    if rule is None and rules.count() >= HOSTS_MAX:
        raise InvalidHosts(
            f"A conversation may have at most {HOSTS_MAX:,} rules. Remove a rule first."
        )
    before = {"host": pattern, "allowed": rule.allowed} if rule is not None else {}
    rule = rule or HostRule(
        organization_id=conversation.organization_id, conversation=conversation, host=pattern
    )
    rule.allowed, rule.decided_by, rule.decided_at = allowed, by, timezone.now()
    rule.save()
    _apply_rule(conversation, pattern, allowed=allowed)
    audit.record(
        action="egress.host_allowed" if allowed else "egress.host_refused",
        organization_id=conversation.organization_id,
        subject=conversation,
        before=before,
        after={"host": pattern, "allowed": allowed},
    )
    return rule


@transaction.atomic
def remove_host_rule(*, conversation_id: UUID, host: str) -> None:
    """Remove the rule for a host from a conversation, so that the profile decides again. Raise ``NoHostRule``."""
    conversation = Conversation.objects.select_for_update().get(pk=conversation_id)
    rules = HostRule.objects.filter(conversation=conversation)
    # A rule is found by its normal spelling, and a text that is no host has no rule.
    try:
        rule = rules.filter(host=normalize_pattern(host)).first()
    except BadHost:
        rule = None
    if rule is None:
        raise NoHostRule
    rule.delete()
    _apply_rule(conversation, rule.host, allowed=None)
    audit.record(
        action="egress.rule_removed",
        organization_id=conversation.organization_id,
        subject=conversation,
        before={"host": rule.host, "allowed": rule.allowed},
    )


def explain_no_open_network() -> str:
    """Return why sandboxes of this server cannot have the full network and what to do, or an empty text if they can."""
    return get_provider(settings.SANDBOX_PROVIDER).explain_no_open_network()


@transaction.atomic
def set_egress_policy(
    *, organization: Organization, profile: str, hosts: Iterable[str], by: User
) -> EgressPolicy:
    """Set the network profile and the listed hosts of an organization. An empty profile means the site's profile.

    Jobs send the new rules to all running sandboxes of the organization. Safe to repeat. Raise ``InvalidHosts`` if the
    profile or a host is not valid.
    """
    if profile and profile not in {value.value for value in Profile}:
        raise InvalidHosts(f"profile: must be one of {', '.join(Profile)}, or empty.")
    if profile == Profile.OPEN and (reason := explain_no_open_network()):
        raise InvalidHosts(f"profile: {reason}")
    patterns = _clean_patterns(hosts)
    # Without the lock, two concurrent first requests would both insert a row.
    Organization.objects.select_for_update().get(pk=organization.pk)
    row = get_egress_policy(organization_id=organization.pk)
    before, after = audit.changes(
        {"profile": row.profile, "hosts": row.hosts}, {"profile": profile, "hosts": patterns}
    )
    if not after:
        return row
    row.profile, row.hosts = profile, patterns
    row.updated_by, row.updated_at = by, timezone.now()
    row.save()
    live = Conversation.objects.filter(
        organization=organization, deleted_at=None, sandbox__observed__in=LIVE
    )
    for conversation_id in live.values_list("pk", flat=True):
        queue.push_egress_policy(conversation_id)
    audit.record(
        action="egress.policy_changed",
        organization_id=organization.pk,
        subject=row,
        subject_name=organization.name,
        before=before,
        after=after,
    )
    return row


@transaction.atomic
def push_egress_policy(*, conversation_id: UUID) -> None:
    """Send the current network rules of a conversation to its live sandbox. Safe to repeat.

    Do nothing if the sandbox is not running, because its next start gets the rules. Raise ``OSError`` if the provider
    cannot store the rules, so that the job is retried.
    """
    # With the row's lock, the sandbox ends with the newest rules although several processes send them at the same time.
    rows = Sandbox.objects.select_for_update(of=("self",))
    sandbox = rows.filter(conversation=conversation_id, observed__in=LIVE).first()
    if sandbox is None or not sandbox.handle:
        return
    conversation = Conversation.objects.get(pk=conversation_id)
    get_provider(sandbox.provider).set_policy(sandbox.handle, build_policy(conversation))


def _apply_rule(conversation: Conversation, host: str, *, allowed: bool | None) -> None:
    """Append a rule's change to the log, for the people who follow the conversation, and send it to the sandbox."""
    words = {
        True: f"{host} was allowed for this conversation.",
        False: f"{host} stays refused for this conversation.",
        None: f"The rule for {host} was removed.",
    }
    payload = {"host": host, "allowed": allowed, "message": words[allowed]}
    conversation.append(
        NewEvent(
            event_id=str(uuid4()),
            kind="HostRuleChange",
            source=Event.Source.SERVER,
            payload=orjson.dumps(payload).decode(),
        )
    )
    announcing.announce_on_commit(conversation.pk)
    queue.push_egress_policy(conversation.pk)


def _clean_pattern(host: str) -> str:
    try:
        return normalize_pattern(host)
    except BadHost as error:
        raise InvalidHosts(f"host: {error}", field="host") from error


def _clean_patterns(hosts: Iterable[str]) -> list[str]:
    try:
        patterns = list(HostSet.of(hosts).patterns)
    except BadHost as error:
        raise InvalidHosts(f"hosts: {error}", field="hosts") from error
    if len(patterns) > HOSTS_MAX:
        raise InvalidHosts(f"hosts: the list may have at most {HOSTS_MAX:,} hosts.", field="hosts")
    return patterns
