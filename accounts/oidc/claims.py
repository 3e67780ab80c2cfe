"""What claims mean here: rules turn a provider's claims into roles, and can be tried beforehand."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from accounts.models import Membership

RANK = ("viewer", "auditor", "billing", "member", "admin", "owner")
"""Where several rules give a role in one organization, the one furthest to the right counts."""
KEPT = (
    *("sub", "email", "email_verified", "name", "preferred_username", "given_name", "family_name"),
    *("realm_access", "resource_access", "groups", "roles"),
)


class BadRule(Exception):
    """A claim rule that cannot be understood; the text is a sentence for whoever wrote it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What claims give somebody. ``is_staff`` is None where no rule speaks of it."""

    roles: dict[UUID, str] = field(default_factory=dict)
    is_staff: bool | None = None
    matched: tuple[int, ...] = ()
    """Positions of the rules that matched, from 0."""


def wanted(rules: Iterable[Any], claims: dict[str, Any]) -> Wanted:
    """Apply rules to claims. Changes nothing. Raises ``BadRule``."""
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
    """Raise ``BadRule`` for a rule that would never do what its writer meant."""
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
    """Whether the claim at the path is the value, or a list that holds it.

    A claim whose very name has dots (``https://example.com/roles``) is found before the path is split.
    """
    found: Any = claims.get(rule["claim"])
    if found is None:
        found = claims
        for name in rule["claim"].split("."):
            found = found.get(name) if isinstance(found, dict) else None
    return rule["value"] in found if isinstance(found, list) else found == rule["value"]


def kept(claims: dict[str, Any], rules: Iterable[Any]) -> dict[str, Any]:
    """The part of claims worth storing: who it is, and whatever rules look at."""
    looked_at = {name for rule in rules if isinstance(rule, dict) for name in _names(rule)}
    return {name: value for name, value in claims.items() if name in KEPT or name in looked_at}


def _names(rule: dict[str, Any]) -> set[str]:
    claim = str(rule.get("claim", ""))
    return {claim, claim.partition(".")[0]}
