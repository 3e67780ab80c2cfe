"""What callers of integrations use, by name; each noun has a module of its own."""

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
    "NotConnected",
    "check_token",
    "clone_source",
    "connect",
    "connected",
    "open_pull_request",
    "provider_for",
]
