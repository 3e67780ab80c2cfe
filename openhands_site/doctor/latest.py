"""The newest report of a running server's own checks, cached for a minute.

Each process keeps its own report, because it describes what this process sees: its PATH, its limits, its connections.
"""

import threading
import time
from dataclasses import dataclass
from datetime import datetime

from django.utils import timezone

from openhands_site.doctor.findings import Check
from openhands_site.doctor.running import run_checks

CACHE_SECONDS = 60.0


@dataclass(frozen=True)
class Report:
    """The results of all checks that a running server can make, and the time at which they were complete."""

    checks: tuple[Check, ...]
    finished_at: datetime

    def find(self, check_id: str) -> Check | None:
        """Return the check with an id, or None if it was not run."""
        return next((check for check in self.checks if check.id == check_id), None)


class _Cache:
    """The newest report of this process; valid until ``time.monotonic()`` reaches ``until``."""

    report: Report | None = None
    until = 0.0
    lock = threading.Lock()


def cached_report() -> Report | None:
    """Return the newest report if it is not older than a minute, or None. Returns at once."""
    return _Cache.report if time.monotonic() < _Cache.until else None


def current_report() -> Report:
    """Return the newest report. If it is older than a minute, run the checks, which takes up to 10 seconds.

    Callers that come while the checks run wait for this run instead of starting another one.
    """
    with _Cache.lock:
        report = cached_report()
        if report is None:
            report = Report(tuple(run_checks(in_server=True)), timezone.now())
            _Cache.report, _Cache.until = report, time.monotonic() + CACHE_SECONDS
        return report


def forget_report() -> None:
    """Let the next caller of ``current_report`` run the checks again."""
    _Cache.until = 0.0
