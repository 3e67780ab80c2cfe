"""Read-only admin pages of settings, secrets and Git host tokens. Secret values are never shown."""

from django.contrib import admin

from accounts.models import (
    CustomSecret,
    CustomSecretUse,
    OrganizationSettings,
    ProviderToken,
    UserSettings,
)
from lib.admin import ReadOnlyAdmin


@admin.register(UserSettings)
class UserSettingsAdmin(ReadOnlyAdmin):
    """Settings that users chose for their agents."""

    list_display = ("user", "organization", "version", "updated_at")
    list_select_related = ("user", "organization")
    search_fields = ("user__email",)
    ordering = ("-updated_at",)
    fields = ("user", "organization", "values", "version", "created_at", "updated_at")


@admin.register(OrganizationSettings)
class OrganizationSettingsAdmin(ReadOnlyAdmin):
    """Settings that organizations chose for the agents of their members."""

    list_display = ("organization", "version", "enforced", "updated_at")
    list_select_related = ("organization",)
    ordering = ("-updated_at",)
    fields = ("organization", "values", "enforced", "version", "created_at", "updated_at")


@admin.register(CustomSecret)
class CustomSecretAdmin(ReadOnlyAdmin):
    """Custom secrets of users and organizations, without their values."""

    list_display = ("name", "organization", "user", "updated_at")
    list_select_related = ("organization", "user")
    search_fields = ("name", "user__email")
    ordering = ("-created_at",)
    fields = (
        *("name", "description", "organization", "user"),
        *("created_by", "created_at", "updated_at"),
    )


@admin.register(CustomSecretUse)
class CustomSecretUseAdmin(ReadOnlyAdmin):
    """The log of secrets that sandboxes fetched."""

    list_display = ("used_at", "secret", "conversation_id", "organization")
    list_select_related = ("secret", "organization")
    search_fields = ("conversation_id",)
    ordering = ("-used_at",)
    fields = ("secret", "conversation_id", "organization", "used_at")


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
