"""Read-only admin pages of the audit log and of maintenance mode."""

import json

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from accounts.models import AuditEntry, AuditHead, Maintenance
from lib.admin import ReadOnlyAdmin


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    """Entries of the audit log. `manage.py verify_audit_chain` detects entries that were changed later.

    Titles of conversations and names of secrets are not shown.
    """

    list_display = ("created_at", "action", "actor_kind", "actor_name", "subject", "address")
    private_fields = ("subject_name", "before", "after")
    fields = (
        *("created_at", "action", "actor_kind", "actor_id", "actor_name"),
        *("subject_kind", "subject_id", "subject", "values_before", "values_after"),
        *("reason", "request_id", "address", "id", "chain", "position", "previous", "hash"),
    )
    list_filter = ("actor_kind",)
    search_fields = ("=action", "=actor_id", "=subject_id", "=request_id", "=chain")
    ordering = ("-created_at",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[AuditEntry]:
        readable: QuerySet[AuditEntry] = AuditEntry.objects.readable()
        return readable.order_by(*self.get_ordering(request))

    @admin.display(description="subject", ordering="subject_kind")
    def subject(self, entry: AuditEntry) -> str:
        return entry.show(to_staff=True).subject_name

    @admin.display(description="before")
    def values_before(self, entry: AuditEntry) -> str:
        return json.dumps(entry.show(to_staff=True).before, indent=1, ensure_ascii=False)

    @admin.display(description="after")
    def values_after(self, entry: AuditEntry) -> str:
        return json.dumps(entry.show(to_staff=True).after, indent=1, ensure_ascii=False)


@admin.register(AuditHead)
class AuditHeadAdmin(ReadOnlyAdmin):
    """The last entry of each audit chain: its position and its hash."""

    list_display = ("chain", "count", "hash")
    fields = ("chain", "count", "hash")


@admin.register(Maintenance)
class MaintenanceAdmin(ReadOnlyAdmin):
    """The state of maintenance mode. `manage.py maintenance on|off` changes it."""

    list_display = ("is_on", "sentence", "retry_after", "changed_at")
