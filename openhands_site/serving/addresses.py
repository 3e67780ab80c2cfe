"""The client's IP address: the address of the connection, or the address that a trusted proxy reports."""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from django.conf import settings

from lib.addresses import parse_address

FORWARDED = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-real-ip")


class ClientAddress:
    """ASGI middleware that sets ``scope["client"]`` to the address of the client behind ``TRUSTED_PROXIES``.

    ``X-Forwarded-For`` is read from the right up to the first address that is not a trusted proxy. The client may have
    forged the entries to the left of that address. If the connection does not come from a trusted proxy, forwarding
    headers are dropped. If ``TRUSTED_PROXIES`` is empty, the address of the connection is used, and
    ``X-Forwarded-Proto`` is kept for ``TRUST_X_FORWARDED_PROTO``.
    """

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if settings.TRUSTED_PROXIES and scope["type"] in ("http", "websocket"):
            scope = _resolve_client(scope)
        await self.application(scope, receive, send)


class ClientAddressOfEnviron:
    """WSGI middleware that sets ``REMOTE_ADDR`` by the rules of ``ClientAddress``."""

    def __init__(self, application: Any) -> None:
        self.application = application

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if settings.TRUSTED_PROXIES:
            keys = {name: f"HTTP_{name.decode().upper().replace('-', '_')}" for name in FORWARDED}
            headers = [
                (name, environ[key].encode("latin-1"))
                for name, key in keys.items()
                if key in environ
            ]
            peer = environ.get("REMOTE_ADDR") or "unix"
            scope = _resolve_client({"client": (peer, 0), "headers": headers})
            environ["REMOTE_ADDR"] = scope["client"][0]
            remaining = dict(scope["headers"])
            for name, key in keys.items():
                if name not in remaining:
                    environ.pop(key, None)
        return self.application(environ, start_response)


def _resolve_client(scope: dict[str, Any]) -> dict[str, Any]:
    peer = (scope.get("client") or ("unix", 0))[0]
    trusted = networks(tuple(settings.TRUSTED_PROXIES))
    if not _is_trusted(peer, trusted):
        headers = [pair for pair in scope["headers"] if pair[0] not in FORWARDED]
        return scope | {"client": (peer, 0), "headers": headers}
    chain = [
        entry.strip()
        for name, value in scope["headers"]
        if name == b"x-forwarded-for"
        for entry in value.decode("latin-1").split(",")
    ]
    for entry in reversed(chain):
        address = parse_address(entry)
        if address is None:
            break  # proxies write valid addresses, so the client wrote this entry and those to its left
        peer = str(address)
        if not _is_trusted(peer, trusted):
            break
    return scope | {"client": (peer, 0)}


@lru_cache(maxsize=8)
def networks(entries: Sequence[str]) -> tuple[Any, ...]:
    """Parse ``TRUSTED_PROXIES`` into networks. The entry ``unix`` (a proxy on a Unix socket) stays a string."""
    return tuple("unix" if e == "unix" else ipaddress.ip_network(e, strict=False) for e in entries)


def _is_trusted(peer: str, trusted: Sequence[Any]) -> bool:
    address = parse_address(peer)
    if address is None:
        return "unix" in trusted
    return any(network != "unix" and address in network for network in trusted)
