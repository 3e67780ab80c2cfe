"""Read-only admin pages of network profiles: policies, host rules and decisions. Only services write."""

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html

from conversations.models import EgressDecision, EgressPolicy, HostRule
from lib.admin import ReadOnlyAdmin


@admin.register(EgressDecision)
class EgressDecisionAdmin(ReadOnlyAdmin):
    """Decisions of sandboxes' proxies about connections, newest first."""

    list_display = (
        "at",
        "host",
        "port",
        "allowed",
        "reason",
        "address",
        "protocol",
        "count",
        "conversation_id",
        "organization",
    )
    list_display_links = ("at", "host")
    list_select_related = ("organization",)
    list_filter = ("allowed", "reason", "protocol")
    search_fields = (
        "host",
        "=address",
        "=conversation__id",
        "=conversation__created_by__email",
    )
    sortable_by = ()
    ordering = ("-at", "-id")


@admin.register(HostRule)
class HostRuleAdmin(ReadOnlyAdmin):
    """Hosts that people allowed or refused for single conversations."""

    list_display = ("host", "allowed", "decided_by", "decided_at", "conversation_id")
    list_display_links = ("host",)
    list_select_related = ("decided_by",)
    list_filter = ("allowed",)
    search_fields = ("host", "=conversation__id", "=decided_by__email")
    ordering = ("-decided_at",)


@admin.register(EgressPolicy)
class EgressPolicyAdmin(ReadOnlyAdmin):
    """Network profiles of organizations, each with a link to its changes in the audit log."""

    list_display = ("organization", "profile", "updated_by", "updated_at")
    list_select_related = ("organization", "updated_by")
    list_filter = ("profile",)
    search_fields = ("organization__name", "=organization__id", "=updated_by__email")
    ordering = ("-updated_at",)
    readonly_fields = ("history",)

    @admin.display(description="history")
    def history(self, policy: EgressPolicy) -> str:
        url = reverse("admin:accounts_auditentry_changelist")
        return format_html('<a href="{}?q={}">Changes in the audit log</a>', url, policy.pk)
