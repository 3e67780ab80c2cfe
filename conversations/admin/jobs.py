"""The admin page of the queue's jobs. It replaces the page of Procrastinate, which writes no audit log."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import pluralize
from procrastinate.contrib.django.admin import ProcrastinateJobAdmin
from procrastinate.contrib.django.models import ProcrastinateJob

from conversations.services import jobs as services
from lib.admin import GuardedLookups

admin.site.unregister(ProcrastinateJob)


@admin.register(ProcrastinateJob)
class JobAdmin(GuardedLookups, ProcrastinateJobAdmin):
    """Jobs. Only staff with the permission to change jobs may retry, cancel or abort them."""

    actions = ["retry", "cancel", "abort"]  # noqa: RUF012 - the type of the base class

    def has_act_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("procrastinate.change_procrastinatejob")

    @admin.action(description="Retry failed and stalled jobs", permissions=["act"])
    def retry(self, request: HttpRequest, queryset: QuerySet[ProcrastinateJob]) -> None:
        self._apply_to_each(request, queryset, services.retry_job, "Retried")

    @admin.action(description="Cancel waiting jobs", permissions=["act"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[ProcrastinateJob]) -> None:
        self._apply_to_each(request, queryset, services.cancel_job, "Cancelled")

    @admin.action(description="Abort waiting and running jobs", permissions=["act"])
    def abort(self, request: HttpRequest, queryset: QuerySet[ProcrastinateJob]) -> None:
        self._apply_to_each(request, queryset, services.abort_job, "Aborted")

    def _apply_to_each(
        self, request: HttpRequest, jobs: QuerySet[ProcrastinateJob], service: Any, result: str
    ) -> None:
        selected = list(jobs)
        done = sum(service(job=job) for job in selected)
        self.message_user(request, f"{result} {done} job{pluralize(done)}.", messages.SUCCESS)
        if skipped := len(selected) - done:
            self.message_user(
                request,
                f"Skipped {skipped} job{pluralize(skipped)} whose status does not allow this.",
                messages.WARNING,
            )
