"""What callers of integrations use, by name; each noun has a module of its own."""

from integrations.services.connections import Connection, get_connection, list_connections
from integrations.services.git_hosts import (
    NotConnected,
    check_token,
    clone_source,
    connect,
    connected,
    open_pull_request,
    provider_for,
)

__all__ = [
    "Connection",
    "NotConnected",
    "check_token",
    "clone_source",
    "connect",
    "connected",
    "get_connection",
    "list_connections",
    "open_pull_request",
    "provider_for",
]
