"""Services for claim rules, which derive a user's roles and staff status from an identity provider's claims."""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from accounts.models import AuditEntry, ClaimedRole, Identity, Membership, Organization, User
from accounts.oidc.claims import read_email, read_names
from accounts.services import memberships, sessions
from accounts.services.audit import record

log = logging.getLogger(__name__)
RANK = ("viewer", "auditor", "billing", "member", "admin", "owner")
"""Roles from low to high. If several rules match for one organization, the highest role applies."""
STORED_CLAIMS = (
    *("sub", "email", "email_verified", "name", "preferred_username", "given_name", "family_name"),
    *("emails", "upn"),
    *("realm_access", "resource_access", "groups", "roles"),
)
"""Claims that are stored with an identity, together with the claims that the provider's rules use."""


class BadRule(Exception):
    """A claim rule is not valid; the message is a sentence for the author of the rule."""


@dataclass(frozen=True, slots=True)
class RuleResult:
    """The result of claim rules for one person: the roles by organization id, and the staff status.

    ``is_staff`` is None if no rule is about staff status.
    """

    roles: dict[UUID, str] = field(default_factory=dict)
    is_staff: bool | None = None
    matched: tuple[int, ...] = ()
    """Positions of the rules that matched, from 0."""


def evaluate_rules(rules: Iterable[Any], claims: dict[str, Any]) -> RuleResult:
    """Return the roles and staff status that claim rules give to a person with these claims. Raise ``BadRule``."""
    roles: dict[UUID, str] = {}
    is_staff, matched = None, []
    for position, rule in enumerate(rules):
        check_rule(rule)
        is_match = _matches(rule, claims)
        # With a rule about staff, the result is False and not None if no rule matches, so that staff status from
        # earlier claims is removed.
        if "staff" in rule:
            is_staff = bool(is_staff) or is_match
        if not is_match:
            continue
        matched.append(position)
        if "organization" in rule:
            organization, role = UUID(rule["organization"]), rule["role"]
            roles[organization] = max(roles.get(organization, role), role, key=RANK.index)
    return RuleResult(roles, is_staff, tuple(matched))


def check_rule(rule: Any) -> None:
    """Raise ``BadRule`` if a claim rule is not valid."""
    if not isinstance(rule, dict):
        raise BadRule(
            "A rule must be an object with `claim`, `value`, and either `organization` and `role`, or `staff`."
        )
    if unknown := set(rule) - {"claim", "value", "organization", "role", "staff"}:
        raise BadRule(f"A rule cannot contain {min(unknown)!r}.")
    for name in ("claim", "value"):
        if not isinstance(rule.get(name), str) or not rule[name]:
            raise BadRule(f"`{name}` must be a text that is not empty.")
    if ("staff" in rule) == ("organization" in rule):
        raise BadRule("A rule must contain either `organization` and `role`, or `staff`.")
    if "staff" in rule and rule["staff"] is not True:
        raise BadRule("`staff` must be true. In a rule about a role, leave `staff` out.")
    if "organization" in rule:
        try:
            UUID(rule["organization"])
        except (ValueError, AttributeError, TypeError) as error:
            raise BadRule("`organization` must be the id of an organization.") from error
        if rule.get("role") not in Membership.Role.values:
            raise BadRule(f"`role` must be one of {', '.join(Membership.Role.values)}.")


def _matches(rule: dict[str, Any], claims: dict[str, Any]) -> bool:
    """Return whether the claim at the rule's path is the rule's value, or contains it in one of the known forms."""
    return rule["value"] in read_names(claims, rule["claim"])


@transaction.atomic
def apply_claims(*, identity: Identity, claims: dict[str, Any]) -> None:
    """Apply the provider's claim rules to a user, and store the claims with the identity. Safe to repeat.

    Roles and staff status from earlier claims are removed if the new claims no longer give them. Memberships that a
    person created do not change, and the last owner of an organization stays an owner.
    """
    provider = identity.provider
    identity = Identity.objects.select_for_update().get(pk=identity.pk)
    try:
        result = evaluate_rules(provider.claim_rules, claims)
    except BadRule as error:
        # A mistake in a rule must not lock people out: the sign-in continues, and the user keeps the present roles.
        log.error(  # noqa: TRY400
            "Skipped the claim rules of the identity provider %s: %s", provider.slug, error
        )
    else:
        changed = _apply_roles(identity, result.roles)
        changed |= _apply_staff(identity, result.is_staff)
        if changed:
            sessions.announce_access_change(user_id=identity.user_id)
    email = read_email(claims, trusts_email=provider.trusts_email) or identity.email
    email = email[:254].replace("\0", "")
    identity.email = email if _is_encodable(email) else identity.email
    identity.last_claims = _claims_to_store(claims, provider.claim_rules)
    identity.last_seen_at = timezone.now()
    identity.save(update_fields=["email", "last_claims", "last_seen_at", "is_staff_by_claims"])


def _apply_roles(identity: Identity, roles: dict[UUID, str]) -> bool:
    """Update the memberships from claims; return whether a membership changed.

    ``roles`` is a dict from organization id to role.
    """
    claimed = {
        row.organization_id: row.membership
        for row in identity.claimed_roles.select_related("membership")
    }
    # The old and the new role by organization id; None stands for no membership.
    changed: dict[UUID, tuple[str | None, str | None]] = {}
    for organization_id, membership in sorted(claimed.items()):
        role = roles.get(organization_id)
        if role == membership.role:
            continue
        memberships.lock_organization(organization_id)
        if memberships.is_last_owner(membership):
            _record_kept(identity, membership, role)
            continue
        changed[organization_id] = (membership.role, role)
        if role is None:
            memberships.end_membership(membership)
        else:
            Membership.objects.filter(pk=membership.pk).update(role=role)
    for organization in Organization.objects.filter(pk__in=roles.keys() - claimed.keys()):
        membership, is_new = Membership.objects.get_or_create(
            organization=organization,
            user_id=identity.user_id,
            defaults={"role": roles[organization.pk]},
        )
        # A membership that a person created stays without a ClaimedRole, so claims never change it.
        if is_new:
            ClaimedRole.objects.create(
                identity=identity, organization=organization, membership=membership
            )
            changed[organization.pk] = (None, membership.role)
    # Each audit entry locks its organization's chain: a fixed order prevents deadlocks.
    for organization_id in sorted(changed):
        _record_role(identity, organization_id, *changed[organization_id])
    return bool(changed)


def _record_kept(identity: Identity, membership: Membership, role: str | None) -> None:
    """Log and record that a member stays an owner although the claims no longer say so. Record it once."""
    log.warning(
        "%s stays the last owner of the organization %s, although the claims of %s no longer say so",
        identity.user_id,
        membership.organization_id,
        identity.provider.slug,
    )
    earlier = AuditEntry.objects.filter(
        action="membership.kept", subject_id=str(identity.user_id), chain=membership.organization_id
    )
    if not earlier.exists():
        record(
            action="membership.kept",
            organization_id=membership.organization_id,
            subject=identity.user,
            before={"role": membership.role},
            after={"role": membership.role, "claimed": role or "none"},
            reason=f"last owner; claims of {identity.provider.slug}",
        )


def _record_role(
    identity: Identity, organization_id: UUID, before: str | None, after: str | None
) -> None:
    record(
        action="membership.claimed",
        organization_id=organization_id,
        subject=identity.user,
        before={"role": before} if before else None,
        after={"role": after} if after else None,
        reason=f"claims of {identity.provider.slug}",
    )


def _apply_staff(identity: Identity, is_staff: bool | None) -> bool:  # noqa: FBT001 - one of three
    """Set or remove the staff status of a user; return whether the staff status changed.

    Staff status that an administrator gave is never removed.
    """
    user = identity.user
    if is_staff and not user.is_staff:
        identity.is_staff_by_claims = True
    elif not is_staff and identity.is_staff_by_claims:
        identity.is_staff_by_claims = False
    else:
        return False
    User.objects.filter(pk=user.pk).update(is_staff=bool(is_staff))
    record(
        action="user.staff_claimed",
        subject=user,
        before={"is_staff": user.is_staff},
        after={"is_staff": bool(is_staff)},
        reason=f"claims of {identity.provider.slug}",
    )
    return True


def _claims_to_store(claims: dict[str, Any], rules: Iterable[Any]) -> dict[str, Any]:
    """Return the claims of ``STORED_CLAIMS`` and the claims that rules use; only ``sub`` if they cannot be stored.

    PostgreSQL's JSON cannot store NUL characters and lone surrogates. The limit is 64 KiB.
    """
    rule_claims = {name for rule in rules if isinstance(rule, dict) for name in _claim_names(rule)}
    names = rule_claims.union(STORED_CLAIMS)
    stored = {name: value for name, value in claims.items() if name in names}
    return stored if _is_storable(stored) else {"sub": str(claims.get("sub", ""))[:255]}


def _is_storable(claims: dict[str, Any]) -> bool:
    text = json.dumps(claims, ensure_ascii=False)
    return _is_encodable(text) and "\\u0000" not in text and len(text.encode()) <= 65_536


def _is_encodable(text: str) -> bool:
    """Return whether a text has no lone surrogates, which UTF-8 cannot encode."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _claim_names(rule: dict[str, Any]) -> set[str]:
    """Return all names that the claim of a rule can have: its path up to each dot, and the whole path."""
    parts = str(rule.get("claim", "")).split(".")
    return {".".join(parts[: length + 1]) for length in range(len(parts))}
