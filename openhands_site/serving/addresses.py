"""Whose request it is by network address: the connection's own, unless a proxy that we trust says more."""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from django.conf import settings

from lib.addresses import address_of

FORWARDED = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-real-ip")


class ClientAddress:
    """ASGI: sets ``scope["client"]`` from ``X-Forwarded-For``, read from the right, past ``TRUSTED_PROXIES``.

    The leftmost entry is whatever the caller wrote, so it is never the one believed. From anybody but a
    trusted proxy the forwarding headers are dropped. Without ``TRUSTED_PROXIES`` the connection's address
    counts and ``X-Forwarded-Proto`` stays, for ``TRUST_X_FORWARDED_PROTO`` decides on it.
    """

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if settings.TRUSTED_PROXIES and scope["type"] in ("http", "websocket"):
            scope = _seen_through_proxies(scope)
        await self.application(scope, receive, send)


class ClientAddressOfEnviron:
    """WSGI: sets ``REMOTE_ADDR`` as ``ClientAddress`` sets ``scope["client"]``."""

    def __init__(self, application: Any) -> None:
        self.application = application

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if settings.TRUSTED_PROXIES:
            named = {name: f"HTTP_{name.decode().upper().replace('-', '_')}" for name in FORWARDED}
            headers = [
                (name, environ[key].encode("latin-1"))
                for name, key in named.items()
                if key in environ
            ]
            peer = environ.get("REMOTE_ADDR") or "unix"
            seen = _seen_through_proxies({"client": (peer, 0), "headers": headers})
            environ["REMOTE_ADDR"] = seen["client"][0]
            kept = dict(seen["headers"])
            for name, key in named.items():
                if name not in kept:
                    environ.pop(key, None)
        return self.application(environ, start_response)


def _seen_through_proxies(scope: dict[str, Any]) -> dict[str, Any]:
    peer = (scope.get("client") or ("unix", 0))[0]
    trusted = networks(tuple(settings.TRUSTED_PROXIES))
    if not _is_trusted(peer, trusted):
        kept = [pair for pair in scope["headers"] if pair[0] not in FORWARDED]
        return scope | {"client": (peer, 0), "headers": kept}
    chain = [
        entry.strip()
        for name, value in scope["headers"]
        if name == b"x-forwarded-for"
        for entry in value.decode("latin-1").split(",")
    ]
    for entry in reversed(chain):
        address = address_of(entry)
        if address is None:
            break  # what stands left of nonsense was not written by our proxies
        peer = str(address)
        if not _is_trusted(peer, trusted):
            break
    return scope | {"client": (peer, 0)}


@lru_cache(maxsize=8)
def networks(entries: Sequence[str]) -> tuple[Any, ...]:
    """``TRUSTED_PROXIES`` as networks; ``unix`` stands for a proxy on the same machine's socket."""
    return tuple("unix" if e == "unix" else ipaddress.ip_network(e, strict=False) for e in entries)


def _is_trusted(peer: str, trusted: Sequence[Any]) -> bool:
    address = address_of(peer)
    if address is None:
        return "unix" in trusted
    return any(network != "unix" and address in network for network in trusted)
