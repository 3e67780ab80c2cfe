"""Read-only admin pages of the audit log and of maintenance mode."""

from django.contrib import admin

from accounts.models import AuditEntry, AuditHead, Maintenance
from lib.admin import ReadOnlyAdmin


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    """Entries of the audit log. `manage.py verify_audit_chain` detects entries that were changed later."""

    list_display = ("created_at", "action", "actor_kind", "actor_name", "subject_name", "address")
    list_filter = ("actor_kind",)
    search_fields = ("=action", "=actor_id", "=subject_id", "=request_id", "=chain")
    ordering = ("-created_at",)


@admin.register(AuditHead)
class AuditHeadAdmin(ReadOnlyAdmin):
    """The last entry of each audit chain: its position and its hash."""

    list_display = ("chain", "count", "hash")
    fields = ("chain", "count", "hash")


@admin.register(Maintenance)
class MaintenanceAdmin(ReadOnlyAdmin):
    """The state of maintenance mode. `manage.py maintenance on|off` changes it."""

    list_display = ("is_on", "sentence", "retry_after", "changed_at")
