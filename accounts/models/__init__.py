"""Rows of accounts, a module for each subject."""

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

__all__ = [
    "ApiKey",
    "ApiKeyQuerySet",
    "Membership",
    "Organization",
    "OrganizationQuerySet",
    "SetupLink",
    "User",
    "UserManager",
]
