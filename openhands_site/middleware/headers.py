"""Middleware for security headers: a content security policy that allows only this server's scripts, and no caching."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse

Send = Callable[[dict[str, Any]], Awaitable[None]]
CONTENT_POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "style-src 'self'",
        "script-src 'self'",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HANDSHAKE_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""Headers of responses without Django: those to socket handshakes, and errors before Django is called."""


class SecurityHeaders:
    """Middleware that adds the content security policy and the permissions policy if the view has not set them."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.headers.setdefault("Content-Security-Policy", CONTENT_POLICY)
        response.headers.setdefault(
            "Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=()"
        )
        return response


class CacheControl:
    """Middleware that forbids caching of a response if the view has not set ``Cache-Control``.

    Requests for static files do not reach this middleware: WhiteNoise serves them with their own lifetimes.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.headers.setdefault("Cache-Control", "no-store")
        return response


class SocketHeaders:
    """ASGI middleware that adds the security headers to WebSocket handshakes."""

    def __init__(self, application: Any) -> None:
        self.application = application

    # A plain function: the frame of a coroutine would be kept as long as a socket is open.
    def __call__(self, scope: dict[str, Any], receive: Any, send: Send) -> Awaitable[None]:
        result: Awaitable[None] = self.application(scope, receive, partial(_add_to_accept, send))
        return result


def _add_to_accept(send: Send, message: dict[str, Any]) -> Awaitable[None]:
    """Send a message of a socket, with the security headers if it accepts the handshake.

    A plain function, because it is called for every frame.
    """
    if message["type"] == "websocket.accept":
        headers = [*message.get("headers", ()), *HANDSHAKE_HEADERS]
        if settings.SECURE_HSTS_SECONDS:
            age = f"max-age={settings.SECURE_HSTS_SECONDS}".encode()
            headers.append((b"strict-transport-security", age))
        message = message | {"headers": headers}
    return send(message)
