"""Issue, check, rotate and revoke API keys."""

import ipaddress
import secrets
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts.models import ApiKey, Membership, Organization, User
from accounts.permissions import permissions_in
from accounts.roles import PERMISSIONS
from accounts.services import audit, sessions
from lib import crypto
from lib.addresses import parse_address
from lib.compiled import Compiled, Rows
from lib.problems import Problem

KEY_PURPOSE = "api-key"
KEY_NAME_MAX = 80
NETWORKS_MAX = 20


class InvalidKey(Problem):
    """A key that opens nothing: unknown, wrong, expired, revoked, or its owner may not act."""

    status = 401
    code = "invalid-key"
    sentence = "This API key is not valid: it may be mistyped, expired or revoked."


class NotAMember(Problem):
    """The user does not belong to the organization."""

    status = 403
    code = "not-a-member"
    sentence = "This user is not a member of that organization."


class UnknownScope(Problem):
    """A scope that is no permission's name."""

    code = "unknown-scope"


class ScopeNotHeld(Problem):
    """A scope that the maker of the key lacks."""

    status = 403
    code = "scope-not-held"


class BadNetwork(Problem):
    """Something that is no network, or one that the maker's key does not reach."""

    code = "bad-network"


class KeyEnded(Problem):
    """A key that cannot be rotated: it has ended, or was rotated already."""

    status = 409
    code = "key-ended"
    sentence = "This key has ended or was rotated already. Make a new one."


class TooManyKeys(Problem):
    """The user has as many usable keys as one may have."""

    status = 409
    code = "too-many-keys"
    sentence = "You have as many API keys as one may have. Revoke those you no longer use."


@transaction.atomic
def issue_api_key(
    *,
    user: User,
    name: str,
    organization: Organization | None = None,
    scopes: Sequence[str] = (),
    days: int | None = None,
    not_after: datetime | None = None,
    allowed_networks: Sequence[str] = (),
    within_networks: Sequence[str] = (),
) -> tuple[ApiKey, str]:
    """Make an API key and return it with its plain text, which nobody can see again.

    ``scopes`` are permission names that the user holds in the organization; none means all of them, or all
    those of the key that the user came with. ``days`` until it expires; none means the longest that
    ``API_KEY_MAX_DAYS`` allows, and ``not_after`` bounds both. The key works from ``allowed_networks`` (CIDR)
    only, none meaning everywhere; they lie ``within_networks``, those of the key that the user came with.
    Each call makes another key. Raises ``NotAMember``, ``UnknownScope``, ``ScopeNotHeld``, ``BadNetwork``,
    ``TooManyKeys``.
    """
    organization = organization or user.personal_organization
    if not Membership.objects.filter(user=user, organization=organization).exists():
        raise NotAMember
    _check_scopes(scopes, held=permissions_in(user, organization.pk))
    User.objects.select_for_update().get(
        pk=user.pk
    )  # or two requests both find room for the last key
    if user.api_keys.usable().count() >= settings.API_KEYS_PER_USER:
        raise TooManyKeys
    if not scopes and user.key_scopes is not None:
        scopes = sorted(user.key_scopes)
    networks = _checked_networks(allowed_networks, within=within_networks or user.key_networks)
    days = min(days or settings.API_KEY_MAX_DAYS, settings.API_KEY_MAX_DAYS)
    expires_at = timezone.now() + timedelta(days=days)
    key, plain = _make_key(
        organization=organization,
        user=user,
        name=name,
        scopes=sorted(set(scopes)),
        allowed_networks=networks,
        expires_at=min(expires_at, not_after) if not_after else expires_at,
    )
    _note_key("api_key.created", key)
    return key, plain


@transaction.atomic
def rotate_api_key(
    *, key: ApiKey, by: User, overlap_hours: int = 24, not_after: datetime | None = None
) -> tuple[ApiKey, str]:
    """Replace a key by one of the same name, scopes and networks; the old one works for ``overlap_hours`` more.

    The new one lives as long as the old one was made to live, at most until ``not_after``. A key rotates no
    key that may do more than itself. Not safe to repeat: a second call raises ``KeyEnded``. Raises
    ``ScopeNotHeld`` and ``BadNetwork`` too.
    """
    old = ApiKey.objects.select_for_update(of=("self",)).select_related("user", "organization")
    key = old.get(pk=key.pk)
    if not key.is_usable or ApiKey.objects.filter(replaces=key).exists():
        raise KeyEnded
    if by.key_scopes is not None and (not key.scopes or set(key.scopes) - by.key_scopes):
        raise ScopeNotHeld("A key cannot rotate one that may do more than itself.")
    networks = _checked_networks(key.allowed_networks, within=by.key_networks)
    now = timezone.now()
    longest = timedelta(days=settings.API_KEY_MAX_DAYS)
    lives = min(key.expires_at - key.created_at, longest) if key.expires_at else longest
    new, plain = _make_key(
        organization=key.organization,
        user=key.user,
        name=key.name,
        scopes=key.scopes,
        allowed_networks=networks,
        expires_at=min(now + lives, not_after) if not_after else now + lives,
        replaces=key,
    )
    ends = now + timedelta(hours=overlap_hours)
    key.expires_at = min(key.expires_at, ends) if key.expires_at else ends
    key.save(update_fields=["expires_at"])
    _note_key("api_key.rotated", new, before={"prefix": key.prefix, "works_until": key.expires_at})
    return new, plain


def _make_key(**fields: Any) -> tuple[ApiKey, str]:
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    pepper_id, digest = crypto.digest(f"{key_id}.{secret}", purpose=KEY_PURPOSE)
    key = ApiKey.objects.create(key_id=key_id, digest=digest, pepper_id=pepper_id, **fields)
    return key, f"{key.prefix}.{secret}"


def _note_key(action: str, key: ApiKey, **more: Any) -> None:
    after = {"name": key.name, "scopes": key.scopes, "expires_at": key.expires_at}
    after["networks"] = key.allowed_networks
    audit.record(
        action=action,
        organization_id=key.organization_id,
        subject=key,
        after={} if action == "api_key.revoked" else after,
        **more,
    )


def _checked_networks(wanted: Sequence[str], *, within: Sequence[str] = ()) -> list[str]:
    if len(wanted) > NETWORKS_MAX:
        raise BadNetwork(f"A key has at most {NETWORKS_MAX} networks.")
    bounds = [ipaddress.ip_network(text) for text in within]
    found: list[Any] = []
    for text in wanted:
        try:
            network: Any = ipaddress.ip_network(text.strip(), strict=False)
        except ValueError as error:
            raise BadNetwork(f"{text[:60]!r} is no network, such as 192.0.2.0/24.") from error
        if bounds and not any(
            bound.version == network.version and network.subnet_of(bound) for bound in bounds
        ):
            raise BadNetwork(f"{network} is outside the networks of the key that asks.")
        found.append(network)
    return [str(network) for network in found or bounds]


def _check_scopes(scopes: Sequence[str], *, held: Collection[str]) -> None:
    if unknown := sorted(set(scopes) - PERMISSIONS):
        raise UnknownScope(
            f"There is no permission {unknown[0]!r}. There are: {', '.join(sorted(PERMISSIONS))}."
        )
    if missing := sorted(set(scopes) - set(held)):
        raise ScopeNotHeld(
            f"A key cannot be given {missing[0]}, which its maker does not have here."
        )


def authenticate_api_key(token: str, *, address: str = "") -> ApiKey:
    """The usable key that a plain text belongs to, its ``user`` limited to what the key may do.

    ``address`` is where the caller is; a key with networks works from nowhere else.

    Raises ``InvalidKey``, which does not say which of the reasons it was.
    """
    head, _, _ = token.partition(".")
    key_id = head.removeprefix("oh_")
    key = None
    if head.startswith("oh_") and key_id.isalnum() and key_id.isascii():
        key = _usable_key(key_id[:17])
    key = crypto.verify_row(token.removeprefix("oh_"), key, purpose=KEY_PURPOSE)
    if key is None:
        raise InvalidKey
    return _admitted(key, address)


def _usable_key(key_id: str) -> ApiKey | None:
    """A key with its user and organization; one query, without the ORM's work on it: every request asks."""
    found = _KEY_BY_ID.rows(key_id=key_id, now=timezone.now())
    if not found:
        return None
    key: ApiKey
    key, user, organization = _KEYS.instances(found[0])
    key.user, key.organization = user, organization
    return key


_KEYS = Rows(ApiKey, user=User, organization=Organization)
_KEY_BY_ID = Compiled(
    lambda key_id, now: (
        ApiKey.objects.usable(now=now).filter(key_id=key_id).values_list(*_KEYS.columns)
    ),
    key_id="an example",
    now=datetime(2000, 1, 1, tzinfo=UTC),
)


def reopen_api_key(key_pk: UUID, *, address: str = "") -> ApiKey:
    """The usable key of that id, for what was derived from it and proves itself; as ``authenticate_api_key``."""
    found = ApiKey.objects.usable().filter(pk=key_pk)
    key = found.select_related("user", "organization").first()
    if key is None:
        raise InvalidKey
    return _admitted(key, address)


def _admitted(key: ApiKey, address: str) -> ApiKey:
    if not key.user.is_active or key.organization.suspended_at:
        raise InvalidKey
    place = parse_address(address)
    if key.allowed_networks and not _is_within(place, key.allowed_networks):
        raise InvalidKey
    key.user.bound_organization_id = key.organization_id
    key.user.key_scopes = frozenset(key.scopes) if key.scopes else None
    key.user.key_networks = tuple(key.allowed_networks)
    key.user.came_by = key
    _note_use(key, str(place) if place else None)
    return key


def _is_within(address: Any, networks: Iterable[str]) -> bool:
    return address is not None and any(address in ipaddress.ip_network(n) for n in networks)


def _note_use(key: ApiKey, address: str | None) -> None:
    """Last use, at most once a minute, so that a busy key does not write on every request."""
    now = timezone.now()
    if key.last_used_at is None or now - key.last_used_at > timedelta(minutes=1):
        ApiKey.objects.filter(pk=key.pk).update(last_used_at=now, last_used_address=address)


def revoke_api_key(*, key: ApiKey) -> None:
    """End a key now. Safe to repeat: the first time stays."""
    with transaction.atomic():
        found = ApiKey.objects.filter(pk=key.pk, revoked_at=None)
        if found.update(revoked_at=timezone.now()):
            _note_key("api_key.revoked", key)
    sessions.announce_access_change(user_id=key.user_id)


def revoke_api_keys(*, keys: Iterable[ApiKey]) -> int:
    """End every usable key of these now, each with its audit entry; gives how many. Safe to repeat."""
    wanted = [key.pk for key in keys]
    with transaction.atomic():
        usable = ApiKey.objects.usable().filter(pk__in=wanted).order_by("pk")
        found = list(usable.select_for_update(of=("self",)).select_related("user"))
        ApiKey.objects.filter(pk__in=[key.pk for key in found]).update(revoked_at=timezone.now())
        for key in sorted(found, key=lambda key: (key.organization_id, key.pk)):
            _note_key("api_key.revoked", key)
    for user_id in {key.user_id for key in found}:
        sessions.announce_access_change(user_id=user_id)
    return len(found)
