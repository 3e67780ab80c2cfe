"""The admin pages of the audit log and of maintenance: read, never written."""

from django.contrib import admin

from accounts.models import AuditEntry, AuditHead, Maintenance
from lib.admin import ReadOnlyAdmin


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    """Who did what; `manage.py verify_audit_chain` says whether anything was changed since."""

    list_display = ("created_at", "action", "actor_kind", "actor_name", "subject_name", "address")
    list_filter = ("actor_kind",)
    search_fields = ("=action", "=actor_id", "=subject_id", "=request_id", "=chain")
    ordering = ("-created_at",)


@admin.register(AuditHead)
class AuditHeadAdmin(ReadOnlyAdmin):
    """Where each chain ends."""

    list_display = ("chain", "count", "hash")
    fields = ("chain", "count", "hash")


@admin.register(Maintenance)
class MaintenanceAdmin(ReadOnlyAdmin):
    """The switch; `manage.py maintenance on|off` turns it."""

    list_display = ("is_on", "sentence", "retry_after", "changed_at")
