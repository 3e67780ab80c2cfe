"""The models of the accounts app."""

from accounts.models.audit import AuditEntry, AuditGap, AuditHead, AuditMark
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
from accounts.models.settings import (
    CustomSecret,
    CustomSecretQuerySet,
    CustomSecretUse,
    OrganizationSettings,
    ProviderToken,
    ProviderTokenQuerySet,
    UserSettings,
)
from accounts.models.setup import SetupMark

__all__ = [
    "ApiKey",
    "ApiKeyQuerySet",
    "AuditEntry",
    "AuditGap",
    "AuditHead",
    "AuditMark",
    "ClaimedRole",
    "CustomSecret",
    "CustomSecretQuerySet",
    "CustomSecretUse",
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
    "OrganizationSettings",
    "ProviderSession",
    "ProviderToken",
    "ProviderTokenQuerySet",
    "RecoveryCode",
    "SecondFactor",
    "ServiceAccount",
    "ServiceAccountQuerySet",
    "SetupLink",
    "SetupMark",
    "SpentToken",
    "TermsAcceptance",
    "User",
    "UserManager",
    "UserSession",
    "UserSessionQuerySet",
    "UserSettings",
]
