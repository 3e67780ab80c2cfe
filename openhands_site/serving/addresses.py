"""The client's IP address: the address of the connection, or the address that a trusted proxy reports."""

from collections.abc import Awaitable
from typing import Any

from django.conf import settings

from accounts.proxies import forwarded_entries, is_trusted
from lib.forwarded import resolve_client

FORWARDED = (
    *(b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-real-ip"),
    b"forwarded",
)


class ClientAddress:
    """ASGI middleware that sets ``scope["client"]`` to the address of the client behind ``TRUSTED_PROXIES``.

    ``X-Forwarded-For``, or ``Forwarded`` with ``TRUST_FORWARDED``, is read as ``lib.forwarded`` describes. If the
    connection does not come from a trusted proxy, forwarding headers are dropped. If ``TRUSTED_PROXIES`` is empty, the
    address of the connection is used, and ``X-Forwarded-Proto`` is kept for ``TRUST_X_FORWARDED_PROTO``.
    """

    def __init__(self, application: Any) -> None:
        self.application = application

    # A plain function: the frame of a coroutine would be kept as long as a socket is open.
    def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Awaitable[None]:
        if settings.TRUSTED_PROXIES and scope["type"] in ("http", "websocket"):
            scope = _resolve_client(scope)
        result: Awaitable[None] = self.application(scope, receive, send)
        return result


class ClientAddressOfEnviron:
    """WSGI middleware that sets ``REMOTE_ADDR`` by the rules of ``ClientAddress``."""

    def __init__(self, application: Any) -> None:
        self.application = application

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if settings.TRUSTED_PROXIES:
            keys = {name: f"HTTP_{name.decode().upper().replace('-', '_')}" for name in FORWARDED}
            # WSGI servers join several headers of a name with commas.
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
    if not is_trusted(peer):
        headers = [pair for pair in scope["headers"] if pair[0] not in FORWARDED]
        return scope | {"client": (peer, 0), "headers": headers}
    entries = forwarded_entries((name, value.decode("latin-1")) for name, value in scope["headers"])
    return scope | {"client": (resolve_client(peer, entries, is_trusted), 0)}
