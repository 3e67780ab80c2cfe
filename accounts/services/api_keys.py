"""Services for API keys: issue, authenticate, rotate and revoke."""

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
from lib.addresses import Address, parse_address
from lib.compiled import Compiled, Rows
from lib.problems import Problem

KEY_PURPOSE = "api-key"
KEY_NAME_MAX = 80
NETWORKS_MAX = 20


class InvalidKey(Problem):
    """The key is not accepted. The exception does not say why, so that an attacker learns nothing.

    The key is unknown, wrong, expired or revoked; or its owner is inactive, its organization is suspended, or the
    client is outside its networks.
    """

    status = 401
    code = "invalid-key"
    sentence = "This API key is not valid: it may be mistyped, expired or revoked."


class NotAMember(Problem):
    """The user does not belong to the organization."""

    status = 403
    code = "not-a-member"
    sentence = "This user is not a member of that organization."


class UnknownScope(Problem):
    """A scope is not the name of a permission."""

    code = "unknown-scope"


class ScopeNotHeld(Problem):
    """A requested scope is a permission that the user who creates the key does not have."""

    status = 403
    code = "scope-not-held"


class BadNetwork(Problem):
    """A value is not a network, or the API key that sent the request does not work from this network."""

    code = "bad-network"


class KeyEnded(Problem):
    """The key cannot be rotated because it is expired or revoked, or was already rotated."""

    status = 409
    code = "key-ended"
    sentence = "This key is no longer valid or was already rotated. Create a new key."


class TooManyKeys(Problem):
    """The user has the maximum number of usable keys (``API_KEYS_PER_USER``)."""

    status = 409
    code = "too-many-keys"
    sentence = "The maximum number of API keys is reached. Revoke a key that is no longer used."


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
    by: User | None = None,
) -> tuple[ApiKey, str]:
    """Create an API key; return it with its plain text, which cannot be read again.

    - ``scopes``: permission names that the user has in the organization. If empty, the key has the scopes of the
      API key that sent the request; without such a key, the new key has no limit.
    - ``days``: the lifetime in days. ``API_KEY_MAX_DAYS`` is the maximum and the default.
    - ``not_after``: the latest time at which the key may expire.
    - ``allowed_networks``: networks (CIDR) from which the key works; empty for all. They must be inside the networks
      of the API key that sent the request.
    - ``by``: the caller of the request, by default ``user``. If the caller sent an API key, that key becomes the
      parent of the new key. The new key expires with the caller's API key or access token at the latest. A browser
      session does not limit the new key, because a person signed in and can revoke the key later.

    Not safe to repeat: each call creates a key. Raise ``NotAMember``, ``UnknownScope``, ``ScopeNotHeld`` or
    ``TooManyKeys``. Raise ``BadNetwork`` if a network is invalid or outside the networks of the caller's API key, and
    ``InvalidKey`` if that key was revoked during the request.
    """
    by = by or user
    organization = organization or user.personal_organization
    if not Membership.objects.filter(user=user, organization=organization).exists():
        raise NotAMember
    _check_scopes(scopes, allowed=permissions_in(user, organization.pk))
    # Without the lock, two concurrent requests could both create the last allowed key.
    User.objects.select_for_update().get(pk=user.pk)
    if user.api_keys.usable().count() >= settings.API_KEYS_PER_USER:
        raise TooManyKeys
    # An empty list would mean no limit, so that a limited key could create an unlimited key.
    if not scopes and user.key_scopes is not None:
        scopes = sorted(user.key_scopes)
    networks = _clean_networks(allowed_networks, within=by.key_networks)
    days = min(days or settings.API_KEY_MAX_DAYS, settings.API_KEY_MAX_DAYS)
    ends = [timezone.now() + timedelta(days=days), not_after, by.credential_expires_at]
    key, plain = _create_key(
        organization=organization,
        user=user,
        name=name,
        scopes=sorted(set(scopes)),
        allowed_networks=networks,
        expires_at=min(end for end in ends if end is not None),
        parent=_lock_parent(by),
    )
    _record_key_action("api_key.created", key)
    return key, plain


@transaction.atomic
def rotate_api_key(*, key: ApiKey, by: User, overlap_hours: int = 24) -> tuple[ApiKey, str]:
    """Replace a key by a new key with the same name, scopes and networks; return the new key and its plain text.

    The old key works for another ``overlap_hours``. The new key has the original lifetime of the old key, and expires
    with the caller's API key or access token and with its parent at the latest. Keys and invitations that were created
    with the old key now belong to the new key, so that revoking the new key lists them.

    Not safe to repeat: a second call raises ``KeyEnded``. Raise ``ScopeNotHeld`` if the old key has more permissions
    than the API key that sent the request. Raise ``BadNetwork`` if the old key works from more networks than that API
    key.
    """
    old = ApiKey.objects.select_for_update(of=("self",)).select_related("user", "organization")
    key = old.get(pk=key.pk)
    if not key.is_usable or ApiKey.objects.filter(replaces=key).exists():
        raise KeyEnded
    # A key without scopes has all permissions of its owner, so no limited key may rotate it.
    if by.key_scopes is not None and (not key.scopes or set(key.scopes) - by.key_scopes):
        raise ScopeNotHeld(
            "This key has more permissions than the API key that sent the request. "
            "Rotate it with a browser session or with an API key that has the same permissions."
        )
    networks = _clean_networks(key.allowed_networks, within=by.key_networks)
    now = timezone.now()
    # A key that rotates itself does not become its own parent.
    rotating = _lock_parent(by)
    parent = rotating if rotating and rotating.pk != key.pk else key.parent
    max_lifetime = timedelta(days=settings.API_KEY_MAX_DAYS)
    lifetime = (
        min(key.expires_at - key.created_at, max_lifetime) if key.expires_at else max_lifetime
    )
    ends = [now + lifetime, by.credential_expires_at, parent.expires_at if parent else None]
    new, plain = _create_key(
        organization=key.organization,
        user=key.user,
        name=key.name,
        scopes=key.scopes,
        allowed_networks=networks,
        expires_at=min(end for end in ends if end is not None),
        replaces=key,
        parent=parent,
    )
    key.children.exclude(pk=new.pk).update(parent=new)
    key.invitations.update(made_with=new)
    overlap_end = now + timedelta(hours=overlap_hours)
    key.expires_at = min(key.expires_at, overlap_end) if key.expires_at else overlap_end
    key.save(update_fields=["expires_at"])
    _record_key_action(
        "api_key.rotated", new, before={"prefix": key.prefix, "works_until": key.expires_at}
    )
    return new, plain


def _create_key(**fields: Any) -> tuple[ApiKey, str]:
    # The key id is public. It identifies the database row, so that only one digest must be compared.
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    pepper_id, digest = crypto.digest(f"{key_id}.{secret}", purpose=KEY_PURPOSE)
    key = ApiKey.objects.create(key_id=key_id, digest=digest, pepper_id=pepper_id, **fields)
    return key, f"{key.prefix}.{secret}"


def _lock_parent(by: User) -> ApiKey | None:
    """Lock and return the API key that sent the caller's request; None for a session or an access token.

    Raise ``InvalidKey`` if the key ended meanwhile: otherwise a key could be created after its parent was revoked.
    """
    if not isinstance(by.credential, ApiKey):
        return None
    parent = ApiKey.objects.select_for_update().filter(pk=by.credential.pk).first()
    if parent is None or not parent.is_usable:
        raise InvalidKey
    return parent


def _record_key_action(action: str, key: ApiKey, **more: Any) -> None:
    after = {"name": key.name, "scopes": key.scopes, "expires_at": key.expires_at}
    after["networks"] = key.allowed_networks
    after |= {"parent": key.parent.prefix} if key.parent else {}
    audit.record(
        action=action,
        organization_id=key.organization_id,
        subject=key,
        after={} if action == "api_key.revoked" else after,
        **more,
    )


def _clean_networks(networks: Sequence[str], *, within: Sequence[str] = ()) -> list[str]:
    """Return the networks in normal form, such as ``192.0.2.0/24``. Without networks, return those of ``within``.

    Raise ``BadNetwork`` if a network is invalid or not inside a network of ``within``.
    """
    if len(networks) > NETWORKS_MAX:
        raise BadNetwork(f"A key has at most {NETWORKS_MAX} networks.")
    bounds = [ipaddress.ip_network(text) for text in within]
    parsed: list[Any] = []
    for text in networks:
        try:
            # strict=False accepts an address with host bits, such as 192.0.2.7/24, and clears these bits.
            network: Any = ipaddress.ip_network(text.strip(), strict=False)
        except ValueError as error:
            raise BadNetwork(
                f"{text[:60]!r} is not a network. Enter a network such as 192.0.2.0/24."
            ) from error
        # subnet_of raises TypeError for an IPv4 and an IPv6 network, so compare the versions first.
        if bounds and not any(
            bound.version == network.version and network.subnet_of(bound) for bound in bounds
        ):
            raise BadNetwork(
                f"The network {network} is outside the networks of the API key that sent the "
                "request."
            )
        parsed.append(network)
    return [str(network) for network in parsed or bounds]


def _check_scopes(scopes: Sequence[str], *, allowed: Collection[str]) -> None:
    if unknown := sorted(set(scopes) - PERMISSIONS):
        raise UnknownScope(
            f"There is no permission {unknown[0]!r}. "
            f"The permissions are: {', '.join(sorted(PERMISSIONS))}."
        )
    if missing := sorted(set(scopes) - set(allowed)):
        raise ScopeNotHeld(
            f"You cannot create a key with the scope {missing[0]}, because you do not have this "
            "permission in this organization."
        )


def authenticate_api_key(token: str, *, address: str = "") -> ApiKey:
    """Return the usable API key whose plain text is ``token``, and update the time of its last use.

    The key's ``user`` is limited to the organization and the scopes of the key. ``address`` is the client's IP
    address: a key can be limited to some networks. Raise ``InvalidKey`` if no usable key matches.
    """
    head, _, _ = token.partition(".")
    key_id = head.removeprefix("oh_")
    key = None
    if head.startswith("oh_") and key_id.isalnum() and key_id.isascii():
        # Cut a long id, to bound the query's parameter. A cut id has 17 characters, while ids in the database have
        # at most 16, so it matches no row.
        key = _usable_key(key_id[:17])
    # Also runs for an unknown key, so that the response time does not show whether the key exists.
    key = crypto.verify_row(token.removeprefix("oh_"), key, purpose=KEY_PURPOSE)
    if key is None:
        raise InvalidKey
    return _admit(key, address)


def _usable_key(key_id: str) -> ApiKey | None:
    """Return a usable key with its user and organization, or None. Runs one database query.

    Every request with an API key calls this function, so the SQL is compiled only once.
    """
    rows = _KEY_BY_ID.rows(key_id=key_id, now=timezone.now())
    if not rows:
        return None
    key: ApiKey
    key, user, organization = _KEYS.instances(rows[0])
    # An assignment to ``key.user`` would also ask the database routers whether the two rows may be related.
    _USER_OF_KEY.set_cached_value(key, user)
    _ORGANIZATION_OF_KEY.set_cached_value(key, organization)
    return key


_KEYS = Rows(ApiKey, user=User, organization=Organization)
_USER_OF_KEY: Any = ApiKey._meta.get_field("user")  # noqa: SLF001 - Django documents _meta
_ORGANIZATION_OF_KEY: Any = ApiKey._meta.get_field("organization")  # noqa: SLF001
_KEY_BY_ID = Compiled(
    lambda key_id, now: (
        ApiKey.objects.usable(now=now).filter(key_id=key_id).values_list(*_KEYS.columns)
    ),
    key_id="an example",
    now=datetime(2000, 1, 1, tzinfo=UTC),
)


def load_api_key(key_pk: UUID, *, address: str = "") -> ApiKey:
    """Return the usable API key whose primary key is ``key_pk``, and update the time of its last use.

    The key's ``user`` is limited as in ``authenticate_api_key``. The secret of the key is not checked: the caller has
    verified a credential that was derived from the key, such as a conversation key. Raise ``InvalidKey``.
    """
    rows = ApiKey.objects.usable().filter(pk=key_pk)
    key = rows.select_related("user", "organization").first()
    if key is None:
        raise InvalidKey
    return _admit(key, address)


def _admit(key: ApiKey, address: str) -> ApiKey:
    """Check the key's user, organization and network; then apply the key and return it.

    Set the key's limits on the instance ``key.user`` (not stored), and update the last use in the database. Raise
    ``InvalidKey`` if the user is inactive, the organization is suspended, or the client is outside the key's networks.
    """
    # Whether the user is still a member of the organization is checked later, with each permission.
    user = key.user
    if not user.is_active or key.organization.suspended_at:
        raise InvalidKey
    # None for an empty or invalid address, which is outside every network.
    client_ip = parse_address(address)
    if key.allowed_networks and not _is_within(client_ip, key.allowed_networks):
        raise InvalidKey
    user.bound_organization_id = key.organization_id
    # None means no limit. An empty set would allow nothing.
    user.key_scopes = frozenset(key.scopes) if key.scopes else None
    user.key_networks = tuple(key.allowed_networks)
    # Conversation keys are derived from the credential of the request, and stop working together with it.
    user.credential = key
    user.credential_expires_at = key.expires_at
    _update_last_use(key, str(client_ip) if client_ip else None)
    return key


def _is_within(address: Address | None, networks: Iterable[str]) -> bool:
    return address is not None and any(address in ipaddress.ip_network(n) for n in networks)


def _update_last_use(key: ApiKey, address: str | None) -> None:
    now = timezone.now()
    # At most one write per minute, so that a busy key does not write on every request.
    if key.last_used_at is None or now - key.last_used_at > timedelta(minutes=1):
        ApiKey.objects.filter(pk=key.pk).update(last_used_at=now, last_used_address=address)


def child_keys(*, keys: Iterable[ApiKey]) -> list[ApiKey]:
    """Return the usable keys that were created with ``keys``, and those that were created with these, oldest first.

    They can belong to other users: a key can create keys of service accounts. Runs one query per generation.
    """
    found: dict[UUID, ApiKey] = {}
    parents = {key.pk for key in keys}
    known = set(parents)
    while parents:
        # Revoked and expired keys are followed too, because keys that were created with them may still work.
        rows = ApiKey.objects.filter(parent_id__in=parents).exclude(pk__in=known)
        generation = {row.pk: row for row in rows.select_related("user", "organization", "parent")}
        found |= generation
        known |= generation.keys()
        parents = set(generation)
    return sorted((row for row in found.values() if row.is_usable), key=lambda row: row.created_at)


def revoke_api_key(*, key: ApiKey, with_children: bool = False) -> list[ApiKey]:
    """Revoke a key; return the keys that were created with it and still work.

    With ``with_children``, revoke these keys too and return an empty list. Safe to repeat: ``revoked_at`` keeps the
    time of the first call.
    """
    with transaction.atomic():
        # The lock waits for a request that is creating a key with this key.
        ApiKey.objects.select_for_update().filter(pk=key.pk).first()
        rows = ApiKey.objects.filter(pk=key.pk, revoked_at=None)
        if rows.update(revoked_at=timezone.now()):
            _record_key_action("api_key.revoked", key)
        children = child_keys(keys=[key])
        if with_children:
            revoke_api_keys(keys=children)
            children = []
    sessions.announce_access_change(user_id=key.user_id)
    return children


def revoke_api_keys(*, keys: Iterable[ApiKey]) -> int:
    """Revoke the usable keys among ``keys`` and return how many were revoked. Safe to repeat.

    Each revoked key gets an audit entry.
    """
    key_pks = [key.pk for key in keys]
    with transaction.atomic():
        rows = ApiKey.objects.usable().filter(pk__in=key_pks).order_by("pk")
        usable = list(rows.select_for_update(of=("self",)).select_related("user"))
        ApiKey.objects.filter(pk__in=[key.pk for key in usable]).update(revoked_at=timezone.now())
        # Each audit entry locks its organization's chain: a fixed order prevents deadlocks.
        for key in sorted(usable, key=lambda key: (key.organization_id, key.pk)):
            _record_key_action("api_key.revoked", key)
    for user_id in {key.user_id for key in usable}:
        sessions.announce_access_change(user_id=user_id)
    return len(usable)
