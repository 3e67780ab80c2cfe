"""The service that records that staff read private content of users on the admin site, and for which reason."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from accounts.services import audit
from lib.problems import Problem

REASON_MAX = 300


class ReadingReasonNeeded(Problem):
    """Staff must enter a reason before they read private content."""

    status = 403
    code = "reading-reason-needed"
    sentence = (
        "Enter the reason why you need to read this. The audit log of the organization stores it."
    )


@dataclass(frozen=True, slots=True)
class PrivateScope:
    """The private content that one reason opens, such as everything in one conversation."""

    kind: str
    """The kind of the subject in the audit log, for example ``conversation``."""
    id: str
    organization_id: UUID | None
    """The organization whose chain records the reading; None for the chain of the site."""
    subject: Any
    """The row that is the subject of the audit entry."""

    @property
    def key(self) -> str:
        """The name of this scope in a session."""
        return f"{self.kind}:{self.id}"


def record_reading(*, scope: PrivateScope, reason: str, page: str) -> None:
    """Record that staff open a page with private content. Not safe to repeat: each opening is recorded.

    Raise ``ReadingReasonNeeded`` if the reason is empty. ``page`` names the page, such as ``event 018f…``.
    """
    if not reason.strip():
        raise ReadingReasonNeeded
    audit.record(
        action="content.read_by_staff",
        organization_id=scope.organization_id,
        subject=scope.subject,
        after={"page": page},
        reason=reason.strip()[:REASON_MAX],
    )
