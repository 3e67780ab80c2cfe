"""Read-only admin pages of settings, secrets and Git host tokens. Secret values are never shown.

Settings and the names of secrets are private: the lists do not show them, and the page of a row asks for a reason.
"""

from django.contrib import admin

from accounts.admin.reading import PrivateAdmin
from accounts.models import (
    CustomSecret,
    CustomSecretUse,
    OrganizationSettings,
    ProviderToken,
    UserSettings,
)
from lib.admin import ReadOnlyAdmin


@admin.register(UserSettings)
class UserSettingsAdmin(PrivateAdmin):
    """Settings that users chose for their agents."""

    list_display = ("user", "organization", "version", "updated_at")
    list_select_related = ("user", "organization")
    search_fields = ("user__email",)
    ordering = ("-updated_at",)
    private_fields = ("values",)
    fields = ("user", "organization", "values", "version", "created_at", "updated_at")


@admin.register(OrganizationSettings)
class OrganizationSettingsAdmin(PrivateAdmin):
    """Settings that organizations chose for the agents of their members."""

    list_display = ("organization", "version", "enforced", "updated_at")
    list_select_related = ("organization",)
    ordering = ("-updated_at",)
    private_fields = ("values",)
    fields = ("organization", "values", "enforced", "version", "created_at", "updated_at")


@admin.register(CustomSecret)
class CustomSecretAdmin(PrivateAdmin):
    """Custom secrets of users and organizations, without their values."""

    list_display = ("id", "organization", "user", "updated_at")
    list_select_related = ("organization", "user")
    search_fields = ("=id", "user__email")
    private_fields = ("name", "description")
    ordering = ("-created_at",)
    fields = (
        *("name", "description", "organization", "user"),
        *("created_by", "created_at", "updated_at"),
    )


@admin.register(CustomSecretUse)
class CustomSecretUseAdmin(ReadOnlyAdmin):
    """The log of secrets that sandboxes fetched."""

    list_display = ("used_at", "secret_id", "conversation_id", "organization")
    list_select_related = ("organization",)
    search_fields = ("conversation_id",)
    ordering = ("-used_at",)
    fields = ("secret_id", "conversation_id", "organization", "used_at")


@admin.register(ProviderToken)
class ProviderTokenAdmin(ReadOnlyAdmin):
    """Access tokens for Git hosts, by user and organization."""

    list_display = ("provider", "user", "organization", "host", "updated_at", "last_used_at")
    list_select_related = ("user", "organization")
    list_filter = ("provider",)
    search_fields = ("user__email",)
    ordering = ("-updated_at",)
    fields = (
        *("provider", "host", "user", "organization"),
        *("created_at", "updated_at", "last_used_at"),
    )
