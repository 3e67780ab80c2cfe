"""The model server that a user set: the only caller of it, and its failures in one shape."""

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
MAX_ANSWER_BYTES = 33_554_432
MAX_ERROR_BYTES = 65_536
MAX_MESSAGE = 1_000
CHECK_SECONDS = 30.0


class UpstreamRefused(Exception):
    """No answer, or no good one: the status and sentence for the caller, without the key."""

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
async def answer(access: ModelAccess, body: Json) -> AsyncIterator[AsyncIterator[bytes]]:
    """Send a request and give the bytes of its answer as they arrive.

    Entering raises ``UpstreamRefused`` while nothing was answered yet; so does reading, midway. Leaving
    closes the connection, by which the server learns that nobody listens any more.
    """
    key = _key(access)
    async with http.async_client(seconds=settings.GATEWAY_TIMEOUT_SECONDS) as client:
        request = client.build_request(
            "POST", _address(access), content=_encoded(body), headers=_headers(key)
        )
        try:
            response = await client.send(request, stream=True)
        except (httpx2.HTTPError, httpx2.InvalidURL, url_guard.UnsafeUrl) as error:
            raise _explained(error) from error
        try:
            if not response.is_success:
                raise _refusal(response, await _beginning(response), key)
            _ensure_kind(response, is_stream=bool(body.get("stream")))
            yield _pieces(response)
        finally:
            await response.aclose()


def check(access: ModelAccess) -> str:
    """A tiny real call: a sentence when the model answers. Raises ``UpstreamRefused``."""
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
                "POST", _address(access), content=_encoded(body), headers=_headers(key)
            ) as response,
        ):
            raw = b""
            for piece in response.iter_bytes():
                raw += piece
                if len(raw) > MAX_ANSWER_BYTES:
                    break
    except (httpx2.HTTPError, httpx2.InvalidURL, url_guard.UnsafeUrl) as error:
        raise _explained(error) from error
    if not response.is_success:
        raise _refusal(response, raw[:MAX_ERROR_BYTES], key)
    completion(raw)
    return f"{access.model} answered in {round((time.monotonic() - started) * 1000)} ms."


def completion(raw: bytes) -> Json:
    """The parsed body of an answer that is not streamed. Raises ``UpstreamRefused`` when it is none."""
    try:
        found = json.loads(raw)
        if isinstance(found["choices"], list) and found["choices"]:
            return dict(found)
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    raise UpstreamRefused(
        502, "The model server's answer is not a chat completion.", code="upstream_malformed"
    )


def _key(access: ModelAccess) -> str:
    try:
        return access.api_key()
    except Undecryptable as error:
        raise UpstreamRefused(
            400,
            "The stored key of the model server cannot be read any more; enter it again in Settings.",
            code="upstream_key_unreadable",
        ) from error


def _address(access: ModelAccess) -> str:
    return f"{access.base_url.rstrip('/')}/chat/completions"


def _encoded(body: Json) -> bytes:
    """ASCII JSON: lone surrogates, which agents' outputs hold now and then, survive only as escapes."""
    return json.dumps(body).encode()


def _headers(key: str) -> dict[str, str]:
    # Uncompressed, so that each piece can go on the moment it arrives.
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    return headers | ({"Authorization": f"Bearer {key}"} if key else {})


async def _pieces(response: httpx2.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in response.aiter_bytes():
            yield piece
    except httpx2.HTTPError as error:
        raise _explained(error) from error


async def _beginning(response: httpx2.Response) -> bytes:
    """As much of an error's body as is worth reading."""
    raw = b""
    try:
        async for piece in response.aiter_bytes():
            raw += piece
            if len(raw) >= MAX_ERROR_BYTES:
                break
    except httpx2.HTTPError:
        pass  # the status alone says enough
    return raw[:MAX_ERROR_BYTES]


def _ensure_kind(response: httpx2.Response, *, is_stream: bool) -> None:
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if is_stream and kind != "text/event-stream":
        raise UpstreamRefused(
            502,
            f"The model server did not stream its answer (it sent {kind[:60] or 'no content type'}).",
            code="upstream_malformed",
        )


def _explained(error: Exception) -> UpstreamRefused:
    """A failure of the transport as a sentence, which never quotes the request."""
    if isinstance(error, url_guard.UnsafeUrl):
        return UpstreamRefused(400, f"Not called: {error}", code="upstream_address_refused")
    if isinstance(
        error, httpx2.InvalidURL | httpx2.UnsupportedProtocol | httpx2.LocalProtocolError
    ):
        return UpstreamRefused(
            400, "The model server's address cannot be called.", code="upstream_address_refused"
        )
    if isinstance(error, httpx2.ConnectTimeout | httpx2.ConnectError):
        return UpstreamRefused(
            502, "The model server cannot be reached.", code="upstream_unreachable"
        )
    if isinstance(error, httpx2.TimeoutException):
        return UpstreamRefused(
            504, "The model server did not answer in time.", code="upstream_timeout"
        )
    return UpstreamRefused(
        502, "The connection to the model server broke.", code="upstream_disconnected"
    )


def _refusal(response: httpx2.Response, raw: bytes, key: str) -> UpstreamRefused:
    """An answer that is an error: its own words, where it has some, without the key."""
    status = response.status_code
    if status < 400:
        return UpstreamRefused(
            502,
            f"The model server answered {status}; redirects are not followed.",
            code="upstream_malformed",
        )
    message, kind, code = _own_words(raw)
    message = message or f"The model server answered {status}."
    if key:
        message, kind, code = (word.replace(key, "[key]") for word in (message, kind, code))
    retry_after = response.headers.get("Retry-After", "")
    return UpstreamRefused(
        status,
        message[:MAX_MESSAGE],
        code=code[:80] or f"upstream_{status}",
        kind=kind[:80] or None,
        retry_after=retry_after if retry_after.isascii() and retry_after.isdigit() else "",
    )


def _own_words(raw: bytes) -> tuple[str, str, str]:
    """Message, type and code of an error body in one of the shapes that servers use."""
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
    words = (message, error.get("type"), error.get("code"))
    found = [word if isinstance(word, str) else "" for word in words]
    return found[0], found[1], found[2]
