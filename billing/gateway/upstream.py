"""Calls to the model server that a user configured, with all failures as ``UpstreamRefused``."""

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
CHECK_SECONDS = 30.0


class UpstreamRefused(Exception):
    """The model server failed: the status and sentence for the caller, without the API key."""

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
    """Send a request and yield an iterator over the response's bytes as they arrive.

    Raises ``UpstreamRefused`` on entry if the server fails before its response, and during iteration if it
    fails later. Leaving the block closes the connection, which stops the server's work.
    """
    key = _key(access)
    async with http.async_client(seconds=settings.GATEWAY_TIMEOUT_SECONDS) as client:
        request = client.build_request(
            "POST", _address(access), content=_encode(body), headers=_headers(key)
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
    """Make a small real call; return a sentence about the response. Raises ``UpstreamRefused``."""
    key = _key(access)
    body = {
        "model": access.model,
        "messages": [{"role": "user", "content": "Reply with the single word OK."}],
    }
    started = time.monotonic()
    try:
        with (
            http.client(seconds=CHECK_SECONDS) as client,
            client.stream(
                "POST", _address(access), content=_encode(body), headers=_headers(key)
            ) as response,
        ):
            raw = b""
            for piece in response.iter_bytes():
                raw += piece
                # A response that does not end: judge what has arrived.
                if len(raw) > MAX_RESPONSE_BYTES:
                    break
    except (httpx2.HTTPError, httpx2.InvalidURL, url_guard.UnsafeUrl) as error:
        raise _explain(error) from error
    if not response.is_success:
        raise _build_refusal(response, raw[:MAX_ERROR_BYTES], key)
    parse_completion(raw)
    return f"{access.model} answered in {round((time.monotonic() - started) * 1000)} ms."


def parse_completion(raw: bytes) -> Json:
    """Parse the body of a response that is not streamed. Raises ``UpstreamRefused`` if it is no chat completion."""
    try:
        body = json.loads(raw)
        if isinstance(body["choices"], list) and body["choices"]:
            return dict(body)
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    raise UpstreamRefused(
        502, "The model server's response is not a chat completion.", code="upstream_malformed"
    )


def _key(access: ModelAccess) -> str:
    try:
        return access.api_key()
    except Undecryptable as error:
        raise UpstreamRefused(
            400,
            "The stored API key of the model server cannot be decrypted. Enter it again in Settings.",
            code="upstream_key_unreadable",
        ) from error


def _address(access: ModelAccess) -> str:
    return f"{access.base_url.rstrip('/')}/chat/completions"


def _encode(body: Json) -> bytes:
    """Return the request body as ASCII JSON.

    Agents' outputs sometimes contain lone surrogates, which can only be sent as escapes.
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
    """Read the beginning of an error's body, at most ``MAX_ERROR_BYTES``."""
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
    """Return a transport failure as a sentence, which never quotes the request."""
    if isinstance(error, url_guard.UnsafeUrl):
        return UpstreamRefused(
            400, f"The model server was not called: {error}", code="upstream_address_refused"
        )
    if isinstance(
        error, httpx2.InvalidURL | httpx2.UnsupportedProtocol | httpx2.LocalProtocolError
    ):
        return UpstreamRefused(
            400,
            "The model server's address is not valid. Correct it in Settings.",
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
    """Return an error response as ``UpstreamRefused``.

    It quotes the server's own message, if it has one, with the API key replaced.
    """
    status = response.status_code
    if status < 400:
        return UpstreamRefused(
            502,
            f"The model server responded with status {status}. Redirects are not followed: "
            "enter the final address in Settings.",
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
    """Return message, type and code of an error body, in any of the shapes that servers use."""
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
