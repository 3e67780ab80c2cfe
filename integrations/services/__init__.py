"""The services of the integrations app, re-exported from one module per noun."""

from integrations.services.connections import Connection, get_connection, list_connections
from integrations.services.git_hosts import (
    NotConnected,
    check_token,
    clone_source,
    connect,
    connected_providers,
    get_stored_host,
    open_pull_request,
    provider_for,
)

__all__ = [
    "Connection",
    "NotConnected",
    "check_token",
    "clone_source",
    "connect",
    "connected_providers",
    "get_connection",
    "get_stored_host",
    "list_connections",
    "open_pull_request",
    "provider_for",
]
