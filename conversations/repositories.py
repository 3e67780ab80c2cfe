"""The clone address and credentials of a conversation's repository.

Git hosts are configured in ``integrations``, which this app must not import. It registers its own resolver here when
Django starts. Without a resolver, repositories are cloned from the public hosts without credentials.
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
    """The address of a repository and the credentials to clone it. An empty ``secret`` means an anonymous clone."""

    url: str
    username: str = ""
    secret: str = field(default="", repr=False)


def public_source(
    *, repository: dict[str, Any], user_id: UUID, organization_id: UUID
) -> CloneSource:
    """Return the repository's address on its public host, without credentials."""
    return CloneSource(f"{PUBLIC_HOSTS[repository['provider']]}/{repository['full_name']}.git")


Resolver = Callable[..., CloneSource]
_resolver: Resolver = public_source


def set_resolver(resolver: Resolver) -> None:
    """Use ``resolver`` for all later calls of ``clone_source``. It takes the same arguments."""
    global _resolver  # noqa: PLW0603 - one per process, set when Django starts
    _resolver = resolver


def clone_source(
    *, repository: dict[str, Any], user_id: UUID, organization_id: UUID
) -> CloneSource:
    """Return the source from which to clone a repository on a user's behalf.

    The resolver may raise a ``Problem``.
    """
    return _resolver(repository=repository, user_id=user_id, organization_id=organization_id)
