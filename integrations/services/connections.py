"""The Git hosts that this server supports, and whether a user has connected them."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from accounts.models import ProviderToken
from accounts.services import provider_tokens
from integrations import registry


@dataclass(frozen=True, slots=True)
class Connection:
    """A Git host that this server supports, and whether a user has a token for it in an organization."""

    provider: str
    host: str
    """The host of the user's token; without a token, the provider's default host, such as github.com."""
    is_connected: bool
    connected_at: datetime | None
    last_used_at: datetime | None


def list_connections(*, user_id: UUID, organization_id: UUID) -> list[Connection]:
    """Return all supported Git hosts and whether the user has connected them, ordered by provider name.

    Runs one database query.
    """
    rows = provider_tokens.provider_tokens(user_id=user_id, organization_id=organization_id)
    tokens = {row.provider: row for row in rows}
    return [_connection(name, tokens.get(name)) for name in sorted(registry.PROVIDERS)]


def get_connection(*, user_id: UUID, organization_id: UUID, provider_name: str) -> Connection:
    """Return a supported Git host, and whether the user has connected it. Raise ``UnknownProvider``.

    Runs one database query.
    """
    for connection in list_connections(user_id=user_id, organization_id=organization_id):
        if connection.provider == provider_name:
            return connection
    raise registry.UnknownProvider


def _connection(name: str, token: ProviderToken | None) -> Connection:
    default_host = registry.DEFAULT_HOSTS[name]
    if token is None:
        return Connection(name, default_host, False, None, None)
    return Connection(name, token.host or default_host, True, token.created_at, token.last_used_at)
