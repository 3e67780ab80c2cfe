"""The clone URL and the credentials of a conversation's repository.

Git hosts are configured in ``integrations``, which this app must not import. When Django starts, ``integrations``
registers a resolver here: a function that returns the clone URL and the credentials. Without a resolver, repositories
are cloned from the public hosts, without credentials.
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
    """The clone URL of a repository and the credentials for it. Without a ``secret``, the clone is anonymous."""

    url: str
    username: str = ""
    secret: str = field(default="", repr=False)


def public_source(
    *, repository: dict[str, Any], user_id: UUID, organization_id: UUID
) -> CloneSource:
    """Return the repository's clone URL on its public host, without credentials."""
    return CloneSource(f"{PUBLIC_HOSTS[repository['provider']]}/{repository['full_name']}.git")


Resolver = Callable[..., CloneSource]
_resolver: Resolver = public_source


def set_resolver(resolver: Resolver) -> None:
    """Use ``resolver`` for all later calls of ``clone_source``. A resolver takes the arguments of ``clone_source``."""
    global _resolver  # noqa: PLW0603 - one per process, set when Django starts
    _resolver = resolver


def clone_source(
    *, repository: dict[str, Any], user_id: UUID, organization_id: UUID
) -> CloneSource:
    """Return the clone URL and credentials with which to clone a repository on a user's behalf.

    A ``Problem`` that the resolver raises is passed on.
    """
    return _resolver(repository=repository, user_id=user_id, organization_id=organization_id)
