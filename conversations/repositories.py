"""Where a conversation's repository is cloned from: known to whoever speaks to Git hosts, above this app.

``integrations`` puts its own finder here when Django starts; until then, and for hosts that it does not know,
repositories are cloned from the public hosts as anybody.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

PUBLIC_HOSTS = {
    "github": "https://github.com",
    "gitlab": "https://gitlab.com",
    "bitbucket": "https://bitbucket.org",
}


@dataclass(frozen=True, slots=True)
class CloneSource:
    """An address, and as whom to ask for it; without a secret as anybody."""

    url: str
    username: str = ""
    secret: str = field(default="", repr=False)


def public_source(
    *, repository: dict[str, Any], user_id: UUID, organization_id: UUID
) -> CloneSource:
    """The repository on its public host."""
    return CloneSource(f"{PUBLIC_HOSTS[repository['provider']]}/{repository['full_name']}.git")


Finder = Callable[..., CloneSource]
_finder: Finder = public_source


def use(finder: Finder) -> None:
    """Ask ``finder`` from now on; it takes what ``clone_source`` takes."""
    global _finder  # noqa: PLW0603 - one per process, set when Django starts
    _finder = finder


def clone_source(
    *, repository: dict[str, Any], user_id: UUID, organization_id: UUID
) -> CloneSource:
    """Where a repository is cloned from on a user's behalf. May raise a ``Problem``."""
    return _finder(repository=repository, user_id=user_id, organization_id=organization_id)
