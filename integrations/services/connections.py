"""The Git hosts of this server, and the hosts that a user has connected."""

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
    """The host that the user's token is for, else the provider's own host."""
    is_connected: bool
    connected_at: datetime | None
    last_used_at: datetime | None


def list_connections(*, user_id: UUID, organization_id: UUID) -> list[Connection]:
    """Return the supported Git hosts by provider name. One query."""
    rows = provider_tokens.provider_tokens(user_id=user_id, organization_id=organization_id)
    tokens = {row.provider: row for row in rows}
    return [_connection(name, tokens.get(name)) for name in sorted(registry.PROVIDERS)]


def get_connection(*, user_id: UUID, organization_id: UUID, provider: str) -> Connection:
    """Return a supported Git host. One query. Raise ``UnknownProvider``."""
    for connection in list_connections(user_id=user_id, organization_id=organization_id):
        if connection.provider == provider:
            return connection
    raise registry.UnknownProvider


def _connection(name: str, token: ProviderToken | None) -> Connection:
    own_host = registry.DEFAULT_HOSTS[name]
    if token is None:
        return Connection(name, own_host, False, None, None)
    return Connection(name, token.host or own_host, True, token.created_at, token.last_used_at)
