"""The verbs of service accounts: programs that are members of one organization, with keys and no sign-in."""

from collections.abc import Sequence

from django.db import transaction
from django.utils import timezone
from uuid_utils.compat import uuid7

from accounts.models import ApiKey, Membership, Organization, ServiceAccount, User
from accounts.permissions import permissions_in
from accounts.roles import ROLE_PERMISSIONS
from accounts.services.api_keys import ScopeNotHeld, issue_api_key
from accounts.services.audit import record
from accounts.services.organizations import PersonalOrganization, RoleAboveYours, checked_name
from accounts.services.sessions import announce_access_change
from lib.problems import Problem

ACCOUNTS_MAX = 200
"""Service accounts of one organization that are not revoked."""
ROLES = [choice for choice in Membership.Role.choices if choice[0] != Membership.Role.OWNER]
"""What a service account may be."""


class TooManyServiceAccounts(Problem):
    """The organization has as many service accounts as one may have."""

    status = 409
    code = "too-many-service-accounts"
    sentence = "There are as many service accounts here as there may be. Revoke those not in use."


class RevokedServiceAccount(Problem):
    """The service account was revoked; that is for ever."""

    status = 409
    code = "revoked-service-account"
    sentence = "This service account is revoked. Make another."


class OwnerByProgram(Problem):
    """No program owns an organization."""

    code = "owner-by-program"
    sentence = "A service account cannot be an owner."


@transaction.atomic
def create_service_account(
    *, organization: Organization, by: User, name: str, role: str
) -> ServiceAccount:
    """Make a program a member in a role that ``by`` (or the key that ``by`` came with) covers wholly.

    Each call makes another. Raises ``RoleAboveYours``, ``OwnerByProgram``, ``BadName``,
    ``PersonalOrganization``, ``TooManyServiceAccounts``.
    """
    name = checked_name(name)[:80]
    if organization.personal_of_id is not None:
        raise PersonalOrganization
    if role == Membership.Role.OWNER:
        raise OwnerByProgram
    if ROLE_PERMISSIONS[role] - permissions_in(by, organization.pk):
        raise RoleAboveYours
    Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
    if organization.service_accounts.filter(revoked_at=None).count() >= ACCOUNTS_MAX:
        raise TooManyServiceAccounts
    user = User(email=f"{uuid7().hex}@service.invalid", name=name, is_service_account=True)
    user.set_unusable_password()
    user.save()
    Membership.objects.create(organization=organization, user=user, role=role)
    account = ServiceAccount.objects.create(
        organization=organization, user=user, name=name, created_by=by
    )
    record(
        action="service_account.created",
        organization_id=organization.pk,
        subject=account,
        after={"name": name, "role": role},
    )
    return account


@transaction.atomic
def issue_service_account_key(
    *,
    account: ServiceAccount,
    by: User,
    name: str,
    scopes: Sequence[str] = (),
    days: int | None = None,
    allowed_networks: Sequence[str] = (),
) -> tuple[ApiKey, str]:
    """Make a key of a service account; what it may do must be within what ``by`` may do now.

    Each call makes another. Raises ``RevokedServiceAccount`` and what ``issue_api_key`` raises.
    """
    if account.revoked_at is not None:
        raise RevokedServiceAccount
    held = permissions_in(by, account.organization_id)
    wanted = set(scopes) or permissions_in(account.user, account.organization_id)
    if missing := sorted(wanted - held):
        raise ScopeNotHeld(
            f"A key cannot be given {missing[0]}, which its maker does not have here."
        )
    return issue_api_key(
        user=account.user,
        organization=account.organization,
        name=name,
        scopes=scopes,
        days=days,
        allowed_networks=allowed_networks,
        within_networks=by.key_networks,
    )


@transaction.atomic
def revoke_service_account(*, account: ServiceAccount) -> None:
    """End a service account, its keys and its sockets for ever. Safe to repeat: the first time stays."""
    now = timezone.now()
    if not ServiceAccount.objects.filter(pk=account.pk, revoked_at=None).update(revoked_at=now):
        return
    User.objects.filter(pk=account.user_id).update(is_active=False)
    ApiKey.objects.filter(user_id=account.user_id, revoked_at=None).update(revoked_at=now)
    Membership.objects.filter(user_id=account.user_id).delete()
    announce_access_change(user_id=account.user_id)
    record(
        action="service_account.revoked", organization_id=account.organization_id, subject=account
    )
