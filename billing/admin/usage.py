"""Read-only admin pages of model calls, usage, gateway tokens and model access. Only services write these rows."""

from django.contrib import admin

from billing.models import ConversationUsage, GatewayToken, ModelAccess, ModelCall
from lib.admin import ReadOnlyAdmin

COUNTS = ("prompt_tokens", "completion_tokens", "cached_tokens", "cost_micros")


@admin.register(ModelCall)
class ModelCallAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "model", "outcome", "status", *COUNTS, "seconds")
    list_filter = ("outcome", "status")
    search_fields = ("=conversation_id", "=user__email")
    date_hierarchy = "created_at"
    ordering = ("-created_at", "-pk")
    fields = (
        "id",
        "organization",
        "user",
        "conversation_id",
        "model",
        "upstream",
        "outcome",
        "status",
        *COUNTS,
        "seconds",
        "error",
        "created_at",
    )


@admin.register(ConversationUsage)
class ConversationUsageAdmin(ReadOnlyAdmin):
    list_display = ("conversation_id", "organization", "calls", *COUNTS)
    list_select_related = ("organization",)
    search_fields = ("=conversation_id", "organization__name")
    ordering = ("-cost_micros", "pk")
    fields = ("conversation_id", "organization", "calls", *COUNTS)


@admin.register(GatewayToken)
class GatewayTokenAdmin(ReadOnlyAdmin):
    list_display = ("token_id", "conversation_id", "user", "created_at", "expires_at", "revoked_at")
    list_select_related = ("user",)
    search_fields = ("=token_id", "=conversation_id", "=user__email")
    ordering = ("-created_at",)
    fields = (
        "id",
        "token_id",
        "organization",
        "user",
        "conversation_id",
        "created_at",
        "expires_at",
        "revoked_at",
    )


@admin.register(ModelAccess)
class ModelAccessAdmin(ReadOnlyAdmin):
    list_display = ("user", "organization", "model", "base_url", "has_api_key", "updated_at")
    list_select_related = ("user", "organization")
    search_fields = ("=user__email", "organization__name", "model", "base_url")
    ordering = ("-updated_at",)
    fields = (
        "id",
        "organization",
        "user",
        "base_url",
        "model",
        "has_api_key",
        "prompt_micros_per_million",
        "completion_micros_per_million",
        "cached_micros_per_million",
        "created_at",
        "updated_at",
    )

    @admin.display(boolean=True, description="has an API key")
    def has_api_key(self, access: ModelAccess) -> bool:
        return access.has_api_key
