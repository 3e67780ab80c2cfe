"""Services for organizations and their members, roles and ownership."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts.models import ApiKey, Membership, Organization, User
from accounts.permissions import may_grant, permissions_in
from accounts.roles import RANKS, ROLE_PERMISSIONS
from accounts.services import memberships
from accounts.services.api_keys import child_keys
from accounts.services.audit import record
from accounts.services.sessions import announce_access_change
from lib.problems import Problem

NAME_MAX = 120


class BadName(Problem):
    """The name is empty, too long, or has characters that cannot be printed."""

    code = "bad-name"
    sentence = f"Enter a name of 1 to {NAME_MAX} printable characters."


class TooManyOrganizations(Problem):
    """The user owns the maximum number of organizations (``ORGANIZATIONS_PER_USER``)."""

    status = 409
    code = "too-many-organizations"
    sentence = (
        "You own the maximum number of organizations. Transfer an organization to another member, "
        "or ask an administrator of this server to raise the limit."
    )


class PersonalOrganization(Problem):
    """The action is not possible in a personal organization, which always has exactly one member."""

    status = 409
    code = "personal-organization"
    sentence = (
        "This is a personal organization, which has only one member. "
        "Create an organization to work with others."
    )


class RoleAboveYours(Problem):
    """The caller lacks permissions of a role that they try to give, or of the role of a member whom they change.

    The permissions of a caller are those of the user's role, limited to the scopes of the request's API key.
    """

    status = 403
    code = "role-above-yours"
    sentence = (
        "You cannot give, change or remove a role above your own. "
        "Ask a member with a higher role to do it."
    )


class LastOwner(Problem):
    """The action would leave the organization without an owner."""

    status = 409
    code = "last-owner"
    sentence = (
        "An organization needs an owner, and this is the last owner. "
        "Make another member an owner first, or transfer the ownership."
    )


class UnknownMember(Problem):
    """The user is not a member of the organization."""

    status = 404
    code = "unknown-member"
    sentence = "This user is not a member of the organization."


class IsServiceAccount(Problem):
    """The member is a service account, which only the functions of ``service_accounts`` may change."""

    status = 409
    code = "is-service-account"
    sentence = "This member is a service account. Manage it under Service accounts."


# --- Organizations ------------------------------------------------------------------


@transaction.atomic
def create_organization(*, user: User, name: str) -> Organization:
    """Create an organization with the user as its owner. Not safe to repeat: each call creates another.

    Raise ``BadName`` or ``TooManyOrganizations``.
    """
    name = clean_name(name)
    # Without the lock, concurrent requests could exceed the limit.
    User.objects.select_for_update().get(pk=user.pk)
    # Personal organizations do not count towards the limit.
    owned = user.memberships.filter(role=Membership.Role.OWNER, organization__personal_of=None)
    if owned.count() >= settings.ORGANIZATIONS_PER_USER:
        raise TooManyOrganizations
    organization = Organization.objects.create(name=name)
    Membership.objects.create(organization=organization, user=user, role=Membership.Role.OWNER)
    _record("organization.created", organization, after={"name": name})
    return organization


@transaction.atomic
def create_empty_organization(*, name: str) -> Organization:
    """Create an organization without members, on behalf of a server administrator who then adds its owner.

    Not safe to repeat: each call creates another. Raise ``BadName``.
    """
    organization = Organization.objects.create(name=clean_name(name))
    _record("organization.created", organization, after={"name": organization.name})
    return organization


@transaction.atomic
def rename_organization(*, organization: Organization, name: str) -> Organization:
    """Change the name of an organization. Safe to repeat. Raise ``BadName``."""
    name = clean_name(name)
    organization = Organization.objects.select_for_update().get(pk=organization.pk)
    before, organization.name = organization.name, name
    if before != name:
        organization.save(update_fields=["name"])
        _record("organization.renamed", organization, before={"name": before}, after={"name": name})
    return organization


@transaction.atomic
def suspend_organization(*, organization: Organization, reason: str = "") -> None:
    """Suspend an organization: its API keys stop working, its members lose all permissions, open sockets close.

    Safe to repeat: ``suspended_at`` keeps the time of the first call.
    """
    rows = Organization.objects.filter(pk=organization.pk, suspended_at=None)
    if rows.update(suspended_at=timezone.now()):
        _announce_to_members(organization)
        _record("organization.suspended", organization, reason=reason)


@transaction.atomic
def activate_organization(*, organization: Organization, reason: str = "") -> None:
    """Activate a suspended organization again. Safe to repeat."""
    rows = Organization.objects.filter(pk=organization.pk).exclude(suspended_at=None)
    if rows.update(suspended_at=None):
        _record("organization.activated", organization, reason=reason)


# --- Members ------------------------------------------------------------------------


@transaction.atomic
def add_member(*, organization: Organization, user: User, role: str) -> Membership:
    """Add a user to an organization without an invitation, on behalf of a server administrator.

    Safe to repeat: the role of an existing member does not change. Raise ``PersonalOrganization`` or
    ``IsServiceAccount``.
    """
    refuse_personal(organization)
    if user.is_service_account:
        raise IsServiceAccount
    members = lock_members(organization)
    if existing := next((member for member in members if member.user_id == user.pk), None):
        return existing
    membership = Membership.objects.create(organization=organization, user=user, role=role)
    _record("member.added", organization, subject=user, after={"role": role})
    return membership


@transaction.atomic
def change_role(
    *, organization: Organization, by: User | None, user_id: UUID, role: str
) -> Membership:
    """Change the role of a member. Safe to repeat. ``by`` is None for an administrator on the admin site.

    Raise ``UnknownMember``, ``RoleAboveYours``, ``LastOwner``, ``PersonalOrganization`` or
    ``IsServiceAccount``.
    """
    refuse_personal(organization)
    members = lock_members(organization)
    membership = _member(members, user_id)
    if membership.user.is_service_account:
        raise IsServiceAccount
    check_roles(organization, members, by=by, present=membership.role, given=role)
    before = membership.role
    if before == role:
        return membership
    if before == Membership.Role.OWNER:
        _refuse_last_owner(members, membership)
    membership.role = role
    membership.save(update_fields=["role"])
    announce_access_change(user_id=user_id)
    _record(
        "member.role_changed",
        organization,
        subject=membership.user,
        before={"role": before},
        after={"role": role},
    )
    return membership


@transaction.atomic
def remove_member(
    *, organization: Organization, by: User | None, user_id: UUID, reason: str = ""
) -> None:
    """Remove a member and revoke the member's API keys in the organization.

    ``by`` is None for an administrator on the admin site. Raise ``UnknownMember`` (also on a second call),
    ``RoleAboveYours``, ``LastOwner``, ``PersonalOrganization`` or ``IsServiceAccount``.
    """
    refuse_personal(organization)
    members = lock_members(organization)
    membership = _member(members, user_id)
    if membership.user.is_service_account:
        raise IsServiceAccount
    check_roles(organization, members, by=by, present=membership.role)
    if membership.role == Membership.Role.OWNER:
        _refuse_last_owner(members, membership)
    left = _end_membership(membership)
    _record(
        "member.removed",
        organization,
        subject=membership.user,
        before={"role": membership.role},
        after=left,
        reason=reason,
    )


@transaction.atomic
def leave_organization(*, organization: Organization, user: User) -> None:
    """End the user's own membership and revoke the user's API keys in the organization.

    Raise ``LastOwner``, ``UnknownMember`` (also on a second call), ``PersonalOrganization`` or
    ``IsServiceAccount``.
    """
    refuse_personal(organization)
    members = lock_members(organization)
    membership = _member(members, user.pk)
    if membership.user.is_service_account:
        raise IsServiceAccount
    if membership.role == Membership.Role.OWNER:
        _refuse_last_owner(members, membership)
    left = _end_membership(membership)
    _record("member.left", organization, subject=user, before={"role": membership.role}, after=left)


@transaction.atomic
def transfer_organization(*, organization: Organization, by: User, user_id: UUID) -> None:
    """Transfer the ownership: another member becomes an owner, and the user ``by`` becomes an admin.

    Raise ``UnknownMember``, ``PersonalOrganization`` or ``IsServiceAccount``. Raise ``RoleAboveYours`` if ``by`` is not
    an owner, or if the API key of the request lacks a permission of owners.
    """
    refuse_personal(organization)
    members = lock_members(organization)
    old_owner, new_owner = _member(members, by.pk), _member(members, user_id)
    if new_owner.user.is_service_account:
        raise IsServiceAccount
    if old_owner.role != Membership.Role.OWNER:
        raise RoleAboveYours
    check_roles(organization, members, by=by, given=Membership.Role.OWNER)
    if old_owner.pk == new_owner.pk:
        return
    new_owner.role, old_owner.role = Membership.Role.OWNER, Membership.Role.ADMIN
    Membership.objects.bulk_update([new_owner, old_owner], ["role"])
    for changed_id in (new_owner.user_id, old_owner.user_id):
        announce_access_change(user_id=changed_id)
    _record(
        "organization.transferred",
        organization,
        subject=new_owner.user,
        before={"owner": str(by)},
        after={"owner": str(new_owner.user)},
    )


# --- Shared checks ------------------------------------------------------------------


def clean_name(name: str) -> str:
    """Return a name without surrounding white space. Raise ``BadName`` if the name is not valid."""
    name = name.strip()
    if not name or len(name) > NAME_MAX or not name.isprintable():
        raise BadName
    return name


def check_roles(
    organization: Organization,
    members: Iterable[Membership],
    *,
    by: User | None,
    present: str | None = None,
    given: str | None = None,
) -> None:
    """Raise ``RoleAboveYours`` if ``by`` may not give the role ``given`` or change a member with the role ``present``.

    - ``given``: all its permissions must be permissions of ``by``, limited to the scopes of the request's API key.
    - ``present``: it must not rank above the role of ``by``. For an owner or admin, the rule of ``given`` applies too,
      so that a key with few scopes removes no administrator.

    ``by`` is None for an administrator on the admin site, which has already checked the permissions.
    """
    if by is None:
        return
    own_role = next((member.role for member in members if member.user_id == by.pk), None)
    if own_role is None or any(RANKS[role] > RANKS[own_role] for role in (present, given) if role):
        raise RoleAboveYours
    needed = [given] if given else []
    if present and RANKS[present] >= RANKS[Membership.Role.ADMIN]:
        needed.append(present)
    for role in needed:
        if not may_grant(by, organization.pk, role):
            missing = ROLE_PERMISSIONS[role] - permissions_in(by, organization.pk)
            raise RoleAboveYours(
                f"This needs all permissions of the role {role}, and the API key of the request lacks "
                f"{min(missing)}. Use a key with these scopes, or do it in the browser."
                if by.key_scopes is not None
                else RoleAboveYours.sentence
            )


def lock_members(organization: Organization) -> list[Membership]:
    """Lock the organization's row and return all its members.

    Without the lock, two owners who leave concurrently could leave the organization without an owner.
    """
    memberships.lock_organization(organization.pk)
    return list(organization.memberships.select_related("user").order_by("pk"))


def _member(members: Iterable[Membership], user_id: UUID) -> Membership:
    for member in members:
        if member.user_id == user_id:
            return member
    raise UnknownMember


def refuse_personal(organization: Organization) -> None:
    """Raise ``PersonalOrganization`` if the organization is a personal one."""
    if organization.personal_of_id is not None:
        raise PersonalOrganization


def _refuse_last_owner(members: Iterable[Membership], leaving: Membership) -> None:
    """Raise ``LastOwner`` unless another active person is an owner; suspended users do not count."""
    for other in members:
        is_person = other.user.is_active and not other.user.is_service_account
        if other.role == Membership.Role.OWNER and is_person and other.pk != leaving.pk:
            return
    raise LastOwner


def _end_membership(membership: Membership) -> dict[str, Any]:
    """End a membership. Return the audit log's note about keys that the member's keys created and that still work.

    These are keys of service accounts, which stay members.
    """
    revoked = list(
        ApiKey.objects.filter(
            user_id=membership.user_id, organization_id=membership.organization_id
        )
    )
    memberships.end_membership(membership)
    announce_access_change(user_id=membership.user_id)
    left = child_keys(keys=revoked)
    return {"keys_left": [key.prefix for key in left]} if left else {}


def _announce_to_members(organization: Organization) -> None:
    for user_id in organization.memberships.values_list("user_id", flat=True):
        announce_access_change(user_id=user_id)


def _record(action: str, organization: Organization, *, subject: Any = None, **more: Any) -> None:
    record(action=action, organization_id=organization.pk, subject=subject or organization, **more)
