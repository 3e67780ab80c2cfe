"""Roles that a provider's claims give: the rules that turn claims into roles, and the roles they gave."""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from accounts.models import ClaimedRole, Identity, Membership, Organization, User
from accounts.services import sessions
from accounts.services.audit import record

log = logging.getLogger(__name__)
RANK = ("viewer", "auditor", "billing", "member", "admin", "owner")
"""Roles from low to high: of several rules for one organization, the highest role counts."""
KEPT = (
    *("sub", "email", "email_verified", "name", "preferred_username", "given_name", "family_name"),
    *("realm_access", "resource_access", "groups", "roles"),
)


class BadRule(Exception):
    """A claim rule that cannot be understood; the text is a sentence for its author."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What claims give a person. ``is_staff`` is None if no rule is about staff."""

    roles: dict[UUID, str] = field(default_factory=dict)
    is_staff: bool | None = None
    matched: tuple[int, ...] = ()
    """Positions of the rules that matched, from 0."""


def wanted(rules: Iterable[Any], claims: dict[str, Any]) -> Wanted:
    """Return what rules give for claims, and change nothing. Raises ``BadRule``."""
    roles: dict[UUID, str] = {}
    is_staff, matched = None, []
    for position, rule in enumerate(rules):
        check_rule(rule)
        is_match = _matches(rule, claims)
        if "staff" in rule:
            is_staff = bool(is_staff) or is_match
        if not is_match:
            continue
        matched.append(position)
        if "organization" in rule:
            organization, role = UUID(rule["organization"]), rule["role"]
            roles[organization] = max(roles.get(organization, role), role, key=RANK.index)
    return Wanted(roles, is_staff, tuple(matched))


def check_rule(rule: Any) -> None:
    """Raise ``BadRule`` for a rule that cannot mean anything."""
    if not isinstance(rule, dict):
        raise BadRule("A rule is an object with claim, value and what it gives.")
    if unknown := set(rule) - {"claim", "value", "organization", "role", "staff"}:
        raise BadRule(f"A rule has no {min(unknown)!r}.")
    for name in ("claim", "value"):
        if not isinstance(rule.get(name), str) or not rule[name]:
            raise BadRule(f"A rule needs a text as its {name}.")
    if ("staff" in rule) == ("organization" in rule):
        raise BadRule("A rule gives either a role in an organization or staff.")
    if "staff" in rule and rule["staff"] is not True:
        raise BadRule("staff is true or left out.")
    if "organization" in rule:
        try:
            UUID(rule["organization"])
        except (ValueError, AttributeError, TypeError) as error:
            raise BadRule("organization is an organization's id.") from error
        if rule.get("role") not in Membership.Role.values:
            raise BadRule(f"role is one of {', '.join(Membership.Role.values)}.")


def _matches(rule: dict[str, Any], claims: dict[str, Any]) -> bool:
    """Return whether the claim at the rule's path is its value, or a list that contains it.

    A claim whose very name has dots (``https://example.com/roles``) is found before the path is split.
    """
    found: Any = claims.get(rule["claim"])
    if found is None:
        found = claims
        for name in rule["claim"].split("."):
            found = found.get(name) if isinstance(found, dict) else None
    return rule["value"] in found if isinstance(found, list) else found == rule["value"]


@transaction.atomic
def apply_claims(*, identity: Identity, claims: dict[str, Any]) -> None:
    """Update the roles that earlier claims gave to those that these claims give. Safe to repeat.

    Memberships that a person gave do not change, and the last owner of an organization stays its owner.
    """
    provider = identity.provider
    identity = Identity.objects.select_for_update().get(pk=identity.pk)
    try:
        given = wanted(provider.claim_rules, claims)
    except BadRule as error:
        log.error("claim rules of %s are not applied: %s", provider.slug, error)  # noqa: TRY400
    else:
        changed = _apply_roles(identity, given.roles)
        changed |= _apply_staff(identity, given.is_staff)
        if changed:
            sessions.announce_access_change(user_id=identity.user_id)
    identity.email = str(claims.get("email") or identity.email)[:254].replace("\0", "")
    identity.last_claims = _kept(claims, provider.claim_rules)
    identity.last_seen_at = timezone.now()
    identity.save(update_fields=["email", "last_claims", "last_seen_at", "is_staff_by_claims"])


def _apply_roles(identity: Identity, roles: dict[UUID, str]) -> bool:
    given = {
        row.organization_id: row.membership
        for row in identity.claimed_roles.select_related("membership")
    }
    changed: dict[UUID, tuple[str | None, str | None]] = {}
    for organization_id, membership in given.items():
        role = roles.get(organization_id)
        if role == membership.role or _is_last_owner(membership):
            continue
        changed[organization_id] = (membership.role, role)
        if role is None:
            Membership.objects.filter(pk=membership.pk).delete()
        else:
            Membership.objects.filter(pk=membership.pk).update(role=role)
    for organization in Organization.objects.filter(pk__in=roles.keys() - given.keys()):
        membership, is_new = Membership.objects.get_or_create(
            organization=organization,
            user_id=identity.user_id,
            defaults={"role": roles[organization.pk]},
        )
        if is_new:
            ClaimedRole.objects.create(
                identity=identity, organization=organization, membership=membership
            )
            changed[organization.pk] = (None, membership.role)
    for organization_id in sorted(changed):  # lock the audit chains in one order: no deadlocks
        _record_role(identity, organization_id, *changed[organization_id])
    return bool(changed)


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


def _is_last_owner(membership: Membership) -> bool:
    owners = Membership.objects.filter(
        organization_id=membership.organization_id, role=Membership.Role.OWNER
    )
    is_owner = membership.role == Membership.Role.OWNER
    return is_owner and not owners.exclude(pk=membership.pk).exists()


def _apply_staff(identity: Identity, is_staff: bool | None) -> bool:  # noqa: FBT001 - one of three
    """Set or take back staff by claims; staff that an administrator gave does not change."""
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


def _kept(claims: dict[str, Any], rules: Iterable[Any]) -> dict[str, Any]:
    """Return the claims worth storing: the person's, and those that rules look at.

    PostgreSQL's JSON cannot hold NUL or lone surrogates, which a claim may contain.
    """
    looked_at = {name for rule in rules if isinstance(rule, dict) for name in _names(rule)}
    kept = {name: value for name, value in claims.items() if name in KEPT or name in looked_at}
    text = json.dumps(kept)
    is_odd = "\\u0000" in text or "\\ud8" in text.lower() or len(text) > 65_536
    return {"sub": str(claims.get("sub", ""))[:255]} if is_odd else kept


def _names(rule: dict[str, Any]) -> set[str]:
    claim = str(rule.get("claim", ""))
    return {claim, claim.partition(".")[0]}
