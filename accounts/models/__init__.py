"""Rows of accounts, a module for each subject."""

from accounts.models.audit import AuditEntry, AuditHead
from accounts.models.device import DeviceGrant
from accounts.models.identity import (
    ClaimedRole,
    EmailChange,
    Identity,
    IdentityProvider,
    IdentityQuerySet,
    OfflineToken,
    ProviderSession,
    SpentToken,
    TermsAcceptance,
    UserSession,
    UserSessionQuerySet,
)
from accounts.models.maintenance import Maintenance
from accounts.models.organizations import (
    Invitation,
    InvitationQuerySet,
    ServiceAccount,
    ServiceAccountQuerySet,
)
from accounts.models.people import (
    ApiKey,
    ApiKeyQuerySet,
    Membership,
    Organization,
    OrganizationQuerySet,
    SetupLink,
    User,
    UserManager,
)
from accounts.models.second_factor import RecoveryCode, SecondFactor

__all__ = [
    "ApiKey",
    "ApiKeyQuerySet",
    "AuditEntry",
    "AuditHead",
    "ClaimedRole",
    "DeviceGrant",
    "EmailChange",
    "Identity",
    "IdentityProvider",
    "IdentityQuerySet",
    "Invitation",
    "InvitationQuerySet",
    "Maintenance",
    "Membership",
    "OfflineToken",
    "Organization",
    "OrganizationQuerySet",
    "ProviderSession",
    "RecoveryCode",
    "SecondFactor",
    "ServiceAccount",
    "ServiceAccountQuerySet",
    "SetupLink",
    "SpentToken",
    "TermsAcceptance",
    "User",
    "UserManager",
    "UserSession",
    "UserSessionQuerySet",
]
