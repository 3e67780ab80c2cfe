"""HTTP clients for calls to other servers, with timeouts and limits, and with a check of user-supplied URLs.

Create a client per task and close it afterwards (``with client(...)``), so that no connection is shared by two
tenants and no asyncio client outlives its event loop. Clients follow no redirects and ignore proxy settings, because
both would bypass the check of URLs.
"""

import asyncio
import ssl
from functools import cache
from typing import Any

import httpx2

from lib import url_guard

CONNECT_SECONDS = 10.0
LIMITS = httpx2.Limits(max_connections=20, max_keepalive_connections=5)


def client(
    *,
    seconds: float,
    guarded: bool = True,
    allow_private: bool | str | None = None,
    resolver: url_guard.Resolver = url_guard.resolve,
    **options: Any,
) -> httpx2.Client:
    """Return an HTTP client whose reads and writes may each take ``seconds``.

    With ``guarded`` (for user-supplied URLs), calls to URLs and IP addresses that are not allowed raise
    ``url_guard.UnsafeUrl``. ``allow_private`` is the argument of ``url_guard.check_address``.
    """
    plain = httpx2.HTTPTransport(verify=_tls(), trust_env=False, limits=LIMITS)
    guard = GuardedTransport(plain, resolver=resolver, allow_private=allow_private)
    transport = guard if guarded else plain
    return httpx2.Client(transport=transport, **_options(seconds), **options)


def async_client(
    *,
    seconds: float,
    guarded: bool = True,
    allow_private: bool | str | None = None,
    resolver: url_guard.Resolver = url_guard.resolve,
    **options: Any,
) -> httpx2.AsyncClient:
    """Return an HTTP client for asyncio. The arguments are those of ``client``."""
    plain = httpx2.AsyncHTTPTransport(verify=_tls(), trust_env=False, limits=LIMITS)
    guard = AsyncGuardedTransport(plain, resolver=resolver, allow_private=allow_private)
    transport = guard if guarded else plain
    return httpx2.AsyncClient(transport=transport, **_options(seconds), **options)


def _options(seconds: float) -> dict[str, Any]:
    timeout = httpx2.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
    return {"timeout": timeout, "follow_redirects": False, "trust_env": False}


@cache
def _tls() -> ssl.SSLContext:
    """Return the TLS context of all clients. Cached, because loading the trust store takes long."""
    return httpx2.create_ssl_context()


class GuardedTransport(httpx2.BaseTransport):
    """A transport that resolves the host, checks its IP addresses, and connects to a checked address.

    The request keeps the original host name. If a connection fails, the next address is tried.
    """

    def __init__(
        self,
        inner: httpx2.BaseTransport,
        *,
        resolver: url_guard.Resolver,
        allow_private: bool | str | None = None,
    ) -> None:
        self._inner, self._resolver, self._allow_private = inner, resolver, allow_private

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        host, port = _target(request)
        try:
            addresses = url_guard.checked_addresses(
                host, port, resolver=self._resolver, allow_private=self._allow_private
            )
        except OSError as error:
            raise httpx2.ConnectError(f"{host} cannot be resolved", request=request) from error
        for address in addresses[:-1]:
            # Trying the next address is safe, because these errors occur before the request is sent.
            try:
                return self._inner.handle_request(_to(request, host, address))
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
        return self._inner.handle_request(_to(request, host, addresses[-1]))

    def close(self) -> None:
        self._inner.close()


class AsyncGuardedTransport(httpx2.AsyncBaseTransport):
    """A ``GuardedTransport`` for asyncio. It resolves names in a thread."""

    def __init__(
        self,
        inner: httpx2.AsyncBaseTransport,
        *,
        resolver: url_guard.Resolver,
        allow_private: bool | str | None = None,
    ) -> None:
        self._inner, self._resolver, self._allow_private = inner, resolver, allow_private

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        host, port = _target(request)
        lookup = asyncio.to_thread(
            url_guard.checked_addresses,
            host,
            port,
            resolver=self._resolver,
            allow_private=self._allow_private,
        )
        try:
            addresses = await asyncio.wait_for(lookup, CONNECT_SECONDS)
        except TimeoutError as error:
            raise httpx2.ConnectTimeout(
                f"the host name {host} was not resolved in time", request=request
            ) from error
        except OSError as error:
            raise httpx2.ConnectError(f"{host} cannot be resolved", request=request) from error
        for address in addresses[:-1]:
            # Trying the next address is safe, because these errors occur before the request is sent.
            try:
                return await self._inner.handle_async_request(_to(request, host, address))
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
        return await self._inner.handle_async_request(_to(request, host, addresses[-1]))

    async def aclose(self) -> None:
        await self._inner.aclose()


def _target(request: httpx2.Request) -> tuple[str, int]:
    """Return the host and port as the client parsed them. A second parser might disagree and miss an address."""
    url = request.url
    if url.scheme not in ("http", "https"):
        raise url_guard.UnsafeUrl("only http:// and https:// URLs are allowed.")
    return url.raw_host.decode("ascii"), url.port or (443 if url.scheme == "https" else 80)


def _to(request: httpx2.Request, host: str, address: str) -> httpx2.Request:
    """Return a request to an IP address in place of the host name. ``Host`` and the TLS server name stay unchanged."""
    return httpx2.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions=dict(request.extensions) | {"sni_hostname": host},
    )
