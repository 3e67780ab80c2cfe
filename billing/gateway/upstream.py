"""Calls to the model server that a user has set. Every failure of a call is raised as ``UpstreamRefused``."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from django.conf import settings

from billing.models import ModelAccess
from lib import http, url_guard
from lib.crypto import Undecryptable

Json = dict[str, Any]
MAX_RESPONSE_BYTES = 33_554_432
MAX_ERROR_BYTES = 65_536
MAX_MESSAGE = 1_000
"""The maximum length of an error message in characters."""
CHECK_SECONDS = 30.0
"""The timeout of a test call."""


class UpstreamRefused(Exception):
    """A call to the model server failed. The status and the message are for the caller, without the API key."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        kind: str | None = None,
        retry_after: str = "",
    ) -> None:
        self.status, self.message, self.code = status, message, code
        self.kind, self.retry_after = kind, retry_after
        super().__init__(message)


@asynccontextmanager
async def open_response(access: ModelAccess, body: Json) -> AsyncIterator[AsyncIterator[bytes]]:
    """Send a request, and yield an iterator over the bytes of the response as they arrive.

    Raise ``UpstreamRefused`` on entry if the call fails before the response begins, and during the iteration if the
    call fails later. At the end of the block the connection is closed, which makes the model server stop its work.
    """
    key = _decrypt_key(access)
    async with http.async_client(seconds=settings.GATEWAY_TIMEOUT_SECONDS) as client:
        request = client.build_request(
            "POST", _completions_url(access), content=_encode(body), headers=_headers(key)
        )
        try:
            response = await client.send(request, stream=True)
        except (httpx2.HTTPError, httpx2.InvalidURL, url_guard.UnsafeUrl) as error:
            raise _explain(error) from error
        try:
            if not response.is_success:
                raise _build_refusal(response, await _read_beginning(response), key)
            _ensure_content_type(response, is_stream=bool(body.get("stream")))
            yield _iter_pieces(response)
        finally:
            await response.aclose()


def check(access: ModelAccess) -> str:
    """Make a short real call; return a sentence about the response. Raise ``UpstreamRefused`` if the call fails."""
    key = _decrypt_key(access)
    body = {
        "model": access.model,
        "messages": [{"role": "user", "content": "Reply with the single word OK."}],
    }
    started = time.monotonic()
    try:
        with (
            http.client(seconds=CHECK_SECONDS) as client,
            client.stream(
                "POST", _completions_url(access), content=_encode(body), headers=_headers(key)
            ) as response,
        ):
            raw = b""
            for piece in response.iter_bytes():
                raw += piece
                # The response may never end: check only the part that has arrived.
                if len(raw) > MAX_RESPONSE_BYTES:
                    break
    except (httpx2.HTTPError, httpx2.InvalidURL, url_guard.UnsafeUrl) as error:
        raise _explain(error) from error
    if not response.is_success:
        raise _build_refusal(response, raw[:MAX_ERROR_BYTES], key)
    parse_completion(raw)
    return f"{access.model} answered in {round((time.monotonic() - started) * 1000)} ms."


def parse_completion(raw: bytes) -> Json:
    """Parse the body of a response that was not streamed. Raise ``UpstreamRefused`` if it is not a chat completion."""
    try:
        body = json.loads(raw)
        if isinstance(body["choices"], list) and body["choices"]:
            return dict(body)
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    raise UpstreamRefused(
        502, "The model server's response is not a chat completion.", code="upstream_malformed"
    )


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


async def _iter_pieces(response: httpx2.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in response.aiter_bytes():
            yield piece
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


def _ensure_content_type(response: httpx2.Response, *, is_stream: bool) -> None:
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if is_stream and kind != "text/event-stream":
        raise UpstreamRefused(
            502,
            f"The model server did not stream its response (content type: {kind[:60] or 'none'}).",
            code="upstream_malformed",
        )


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
    return UpstreamRefused(
        502, "The connection to the model server was lost. Try again.", code="upstream_disconnected"
    )


def _build_refusal(response: httpx2.Response, raw: bytes, key: str) -> UpstreamRefused:
    """Convert an error response to ``UpstreamRefused``.

    The message is the model server's own message, if there is one, with the API key removed.
    """
    status = response.status_code
    if status < 400:
        return UpstreamRefused(
            502,
            f"The model server responded with status {status}. Redirects are not followed: "
            "enter the final URL in Settings.",
            code="upstream_malformed",
        )
    message, kind, code = _parse_error(raw)
    message = message or f"The model server responded with status {status}."
    if key:
        # Some servers quote the rejected key in their message.
        message, kind, code = (word.replace(key, "[key]") for word in (message, kind, code))
    retry_after = response.headers.get("Retry-After", "")
    return UpstreamRefused(
        status,
        message[:MAX_MESSAGE],
        code=code[:80] or f"upstream_{status}",
        kind=kind[:80] or None,
        retry_after=retry_after if retry_after.isascii() and retry_after.isdigit() else "",
    )


def _parse_error(raw: bytes) -> tuple[str, str, str]:
    """Return the message, type and code of an error body. A missing part is empty.

    Servers use ``{"error": {...}}``, ``{"error": "message"}`` or the fields at the top level.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return "", "", ""
    error = body.get("error", body) if isinstance(body, dict) else None
    if isinstance(error, str):
        return error, "", ""
    if not isinstance(error, dict):
        return "", "", ""
    message = error.get("message") or error.get("detail") or ""
    values = (message, error.get("type"), error.get("code"))
    texts = [value if isinstance(value, str) else "" for value in values]
    return texts[0], texts[1], texts[2]
