"""Services for service accounts. Each belongs to one organization, and a program uses its API keys."""

from collections.abc import Sequence

from django.db import transaction
from django.utils import timezone
from uuid_utils.compat import uuid7

from accounts.models import ApiKey, Membership, Organization, ServiceAccount, User
from accounts.permissions import may_grant, permissions_in
from accounts.services.api_keys import ScopeNotHeld, issue_api_key
from accounts.services.audit import record
from accounts.services.organizations import PersonalOrganization, RoleAboveYours, clean_name
from accounts.services.sessions import announce_access_change
from lib.problems import Problem

ACCOUNTS_MAX = 200
"""The maximum number of service accounts of one organization. Revoked accounts do not count."""
ROLES = [choice for choice in Membership.Role.choices if choice[0] != Membership.Role.OWNER]
"""The roles that a service account can have, with their labels."""


class TooManyServiceAccounts(Problem):
    """The organization has the maximum number of service accounts."""

    status = 409
    code = "too-many-service-accounts"
    sentence = (
        "This organization has the maximum number of service accounts. "
        "Revoke an account that is no longer used."
    )


class RevokedServiceAccount(Problem):
    """The service account is permanently revoked."""

    status = 409
    code = "revoked-service-account"
    sentence = "This service account is revoked permanently. Create a new service account."


class OwnerByProgram(Problem):
    """The role of a new service account is "owner", which is for people only."""

    code = "owner-by-program"
    sentence = "A service account cannot be an owner. Choose another role."


@transaction.atomic
def create_service_account(
    *, organization: Organization, by: User, name: str, role: str
) -> ServiceAccount:
    """Create a service account with a role in an organization. Not safe to repeat: each call creates another.

    The role may have only permissions that ``by`` has; an API key of the request limits the permissions of ``by``.
    Raise ``RoleAboveYours``, ``OwnerByProgram``, ``BadName``, ``PersonalOrganization`` or ``TooManyServiceAccounts``.
    """
    name = clean_name(name)[:80]
    if organization.personal_of_id is not None:
        raise PersonalOrganization
    if role == Membership.Role.OWNER:
        raise OwnerByProgram
    if not may_grant(by, organization.pk, role):
        raise RoleAboveYours
    # Without the lock, concurrent requests could exceed the limit.
    Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
    if organization.service_accounts.filter(revoked_at=None).count() >= ACCOUNTS_MAX:
        raise TooManyServiceAccounts
    # RFC 2606 reserves .invalid: no person can own this address.
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
    """Create an API key of a service account; return it with its plain text, which cannot be read again.

    The key may have only permissions that ``by`` has. Not safe to repeat: each call creates a key.
    Raise ``RevokedServiceAccount`` and the exceptions of ``issue_api_key``.
    """
    if account.revoked_at is not None:
        raise RevokedServiceAccount
    allowed = permissions_in(by, account.organization_id)
    # A key without scopes has all permissions of the service account's role.
    requested = set(scopes) or permissions_in(account.user, account.organization_id)
    if missing := sorted(requested - allowed):
        raise ScopeNotHeld(
            f"You cannot create a key with the scope {missing[0]}, because you do not have this "
            "permission in this organization."
        )
    return issue_api_key(
        user=account.user,
        organization=account.organization,
        name=name,
        scopes=scopes,
        days=days,
        allowed_networks=allowed_networks,
        by=by,
    )


@transaction.atomic
def revoke_service_account(*, account: ServiceAccount) -> None:
    """Revoke a service account and its keys permanently, and close its sockets.

    Safe to repeat: ``revoked_at`` keeps the time of the first call.
    """
    now = timezone.now()
    if not ServiceAccount.objects.filter(pk=account.pk, revoked_at=None).update(revoked_at=now):
        return
    # With an inactive user, the credentials that were derived from the keys stop working too.
    User.objects.filter(pk=account.user_id).update(is_active=False)
    ApiKey.objects.filter(user_id=account.user_id, revoked_at=None).update(revoked_at=now)
    Membership.objects.filter(user_id=account.user_id).delete()
    announce_access_change(user_id=account.user_id)
    record(
        action="service_account.revoked", organization_id=account.organization_id, subject=account
    )
