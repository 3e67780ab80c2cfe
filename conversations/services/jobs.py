"""Services for jobs of the queue, on behalf of staff: retry, cancel and abort, each with an audit entry."""

from typing import Any

from django.db import transaction
from procrastinate import utils
from procrastinate.contrib.django import app
from procrastinate.contrib.django.models import ProcrastinateJob
from procrastinate.jobs import Status

from accounts.services import audit


@transaction.atomic
def retry_job(*, job: ProcrastinateJob) -> bool:
    """Queue a failed job, or a job that seems to run, again at once. Return False if its status does not allow it."""
    if job.status not in (Status.FAILED.value, Status.DOING.value):
        return False
    app.job_manager.retry_job_by_id(job.id, utils.utcnow(), job.priority, job.queue_name, job.lock)
    _record("job.retried", job)
    return True


@transaction.atomic
def cancel_job(*, job: ProcrastinateJob) -> bool:
    """Cancel a job that waits. Return False if it does not wait any more."""
    if job.status != Status.TODO.value:
        return False
    is_cancelled: bool = app.job_manager.cancel_job_by_id(job.id, abort=False)
    if is_cancelled:
        _record("job.cancelled", job)
    return is_cancelled


@transaction.atomic
def abort_job(*, job: ProcrastinateJob) -> bool:
    """Cancel a job that waits, or ask a running job to stop. Return False if it has ended."""
    if job.status not in (Status.TODO.value, Status.DOING.value):
        return False
    is_aborted: bool = app.job_manager.cancel_job_by_id(job.id, abort=True)
    if is_aborted:
        _record("job.aborted", job)
    return is_aborted


def _record(action: str, job: Any) -> None:
    audit.record(
        action=action,
        subject=job,
        subject_name=job.task_name,
        before={"status": job.status},
        after={"task": job.task_name, "args": job.args},
    )
