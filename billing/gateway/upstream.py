"""Calls to the model server that a user has set. Every failure of a call is raised as ``UpstreamRefused``."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from django.conf import settings

from billing import services
from billing.gateway import options, refusals
from billing.gateway.refusals import UpstreamRefused
from billing.gateway.retry_after import parse_retry_after
from billing.models import ModelAccess
from lib import http, url_guard
from lib.crypto import Undecryptable
from lib.threads import DatabaseThreads

Json = dict[str, Any]
threads = DatabaseThreads("upstream", 4)
MAX_ERROR_BYTES = 65_536
LOST_CODES = frozenset(("upstream_timeout", "upstream_disconnected"))
"""Codes of failures after which the model server may still charge for the call."""

UNREACHED_CODES = frozenset(
    ("upstream_unreachable", "upstream_address_refused", "upstream_key_unreadable", *LOST_CODES)
)
"""Codes of failures that do not come from the model server."""


@dataclass(frozen=True, slots=True)
class Response:
    """A successful response: an iterator over its bytes as they arrive, its content type, and the key to mask."""

    pieces: AsyncIterator[bytes]
    content_type: str
    key: str = ""


@asynccontextmanager
async def open_response(access: ModelAccess, body: Json) -> AsyncIterator[Response]:
    """Send a request, and yield the response.

    Raise ``UpstreamRefused`` on entry if the call fails before the response begins, and during the iteration if the
    call fails later. At the end of the block the connection is closed, which makes the model server stop its work. If
    the server refuses an option that it need not know, the request is repeated without the option.
    """
    key = _decrypt_key(access)
    reach = await _find_reach(access)
    async with http.async_client(
        seconds=settings.GATEWAY_TIMEOUT_SECONDS, allow_private=reach
    ) as client:
        response = await _send(client, access, options.add_options(body), key)
        try:
            _refuse_encoding(response)
            kind = response.headers.get("Content-Type", "")
            yield Response(_iter_pieces(response), kind, key)
        finally:
            await response.aclose()


async def _send(
    client: httpx2.AsyncClient, access: ModelAccess, body: Json, key: str
) -> httpx2.Response:
    """Return a response with a success status, whose body has not been read."""
    known = await asyncio.to_thread(options.load_refused, access)
    refused = known or frozenset()
    first_refusal: UpstreamRefused | None = None
    while True:
        sent = options.remove_options(body, refused)
        request = client.build_request(
            "POST", _completions_url(access), content=_encode(sent), headers=_headers(key)
        )
        try:
            response = await client.send(request, stream=True)
        except (httpx2.HTTPError, httpx2.InvalidURL, url_guard.UnsafeUrl) as error:
            raise await _explain_unsent(error, access) from error
        if response.is_success:
            is_new = refused != known if known is not None else "stream_options" in body
            if is_new:
                await asyncio.to_thread(options.remember_refused, access, refused)
            return response
        try:
            raw = await _read_beginning(response)
        finally:
            await response.aclose()
        refusal = _build_refusal(response, raw, key)
        text = raw.decode(errors="replace")
        more = options.choose_refused(sent, response.status_code, text, known)
        # The first message explains more than the refusal of an attempt on suspicion.
        first_refusal = first_refusal or refusal
        if not more or refused - (known or frozenset()) >= frozenset(options.REMOVABLE):
            raise first_refusal
        refused |= more


async def _find_reach(access: ModelAccess) -> str | None:
    """Return the argument ``allow_private`` of the client. Only for servers on this machine, ask the database."""
    if url_guard.loopback_port(access.base_url) is None:
        return None
    return await threads.run(services.find_reach_of, access)


def _decrypt_key(access: ModelAccess) -> str:
    try:
        return access.api_key()
    except Undecryptable as error:
        raise UpstreamRefused(
            400,
            "The stored API key of the model server cannot be decrypted. Enter it again in Settings.",
            code="upstream_key_unreadable",
        ) from error


def _completions_url(access: ModelAccess) -> str:
    return f"{access.base_url.rstrip('/')}/chat/completions"


def _encode(body: Json) -> bytes:
    """Return the request body as ASCII JSON.

    The output of commands can contain lone surrogates, which JSON can only contain as escape sequences.
    """
    return json.dumps(body).encode()


def _headers(key: str) -> dict[str, str]:
    # No compression, so that each piece can be forwarded as soon as it arrives.
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    return headers | ({"Authorization": f"Bearer {key}"} if key else {})


def _refuse_encoding(response: httpx2.Response) -> None:
    """Raise ``UpstreamRefused`` if a server compresses its response in an unknown way although nobody asked for it."""
    for name in response.headers.get("Content-Encoding", "").lower().split(","):
        if name.strip() not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise _build_decoding_error(name.strip())


def _build_decoding_error(name: str) -> UpstreamRefused:
    return UpstreamRefused(
        502,
        f"The model server's response cannot be decompressed (Content-Encoding: {name[:40]}), although the request "
        "asks for no compression. Turn off compression at the server or at the proxy in front of it.",
        code="upstream_malformed",
    )


async def _iter_pieces(response: httpx2.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in response.aiter_bytes():
            yield piece
    except httpx2.DecodingError as error:
        raise _build_decoding_error(response.headers.get("Content-Encoding", "")) from error
    except httpx2.HTTPError as error:
        raise _explain(error) from error


async def _read_beginning(response: httpx2.Response) -> bytes:
    """Read at most ``MAX_ERROR_BYTES`` of an error response."""
    raw = b""
    try:
        async for piece in response.aiter_bytes():
            raw += piece
            if len(raw) >= MAX_ERROR_BYTES:
                break
    except httpx2.HTTPError:
        pass  # the status is enough for an error message
    return raw[:MAX_ERROR_BYTES]


async def _explain_unsent(error: Exception, access: ModelAccess) -> UpstreamRefused:
    """Convert the error of a request that got no response to ``UpstreamRefused``."""
    if isinstance(error, url_guard.UnsafeUrl) and url_guard.loopback_port(access.base_url):
        reason = await threads.run(services.explain_missing_permission, access.base_url)
        return _explain(url_guard.UnsafeUrl(reason) if reason else error)
    return _explain(error)


def _explain(error: Exception) -> UpstreamRefused:
    """Convert a transport error to ``UpstreamRefused``. The message never quotes the request, which has the API key."""
    if isinstance(error, url_guard.UnsafeUrl):
        return UpstreamRefused(
            400, f"The model server was not called: {error}", code="upstream_address_refused"
        )
    if isinstance(
        error, httpx2.InvalidURL | httpx2.UnsupportedProtocol | httpx2.LocalProtocolError
    ):
        return UpstreamRefused(
            400,
            "The URL of the model server is not valid. Correct it in Settings.",
            code="upstream_address_refused",
        )
    if isinstance(error, httpx2.ConnectTimeout | httpx2.ConnectError):
        return UpstreamRefused(
            502,
            "The model server cannot be reached. Check that it is running.",
            code="upstream_unreachable",
        )
    if isinstance(error, httpx2.TimeoutException):
        return UpstreamRefused(
            504, "The model server did not respond in time. Try again.", code="upstream_timeout"
        )
    if "illegal status line" in str(error):  # the wording of h11
        return UpstreamRefused(
            502,
            "The model server's response is not HTTP. Check the URL of the model server.",
            code="upstream_malformed",
        )
    return UpstreamRefused(
        502, "The connection to the model server was lost. Try again.", code="upstream_disconnected"
    )


def _build_refusal(response: httpx2.Response, raw: bytes, key: str) -> UpstreamRefused:
    """Convert an error response to ``UpstreamRefused`` with the model server's own message, if there is one."""
    status = response.status_code
    if status < 400:
        target = response.headers.get("Location", "").partition("?")[0][:300]
        where = f" to {refusals.mask(refusals.clean(target), key)}" if target else ""
        return UpstreamRefused(
            502,
            f"The model server responded with status {status}, a redirect{where}. Redirects are not followed: "
            "enter the final URL in Settings.",
            code="upstream_malformed",
        )
    if status > 599:
        status = 502
    details = refusals.parse_body(raw, response.headers.get("Content-Type", ""))
    retry_after = parse_retry_after(response.headers, status=status)
    return refusals.build_refusal(details, status=status, key=key, retry_after=retry_after)
