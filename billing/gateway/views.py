"""The views of the OpenAI-compatible model gateway.

Sandboxes call the gateway with the gateway token of their conversation, while the API key of the model server stays
here. Each call runs in its own task beside the request, so exactly one usage record is written for each call, even if
the caller disconnects.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.views.decorators.csrf import csrf_exempt

from accounts.sign_in.authentication import read_bearer_token
from billing import services
from billing.gateway import player, script, upstream
from billing.gateway.metering import Meter
from billing.gateway.upstream import UpstreamRefused
from billing.models import GatewayToken, ModelAccess, ModelCall
from billing.prices import Tokens
from lib.api import strict_loads
from lib.routes import RouteFacts
from lib.threads import DatabaseThreads

log = logging.getLogger(__name__)
Json = dict[str, Any]
PIECES_AHEAD = 16
"""The maximum number of pieces that wait for the caller. When it is reached, the gateway stops reading the response."""
CLIENT_CLOSED = 499
"""The status in the record of an abandoned call, as nginx logs it. It is not sent."""
_threads = DatabaseThreads("gateway", 8)
_running: set[asyncio.Task[Any]] = set()  # the event loop holds only weak references to tasks


@RouteFacts(streams=True, body_limit="GATEWAY_BODY_MAX_BYTES", cost="uncounted", called_by="agent")
@csrf_exempt
async def chat_completions(request: HttpRequest) -> HttpResponseBase:
    """Handle ``POST chat/completions``: forward the request to the user's model server, and record the usage."""
    if request.method != "POST":
        return _method_not_allowed("POST")
    # One byte more than allowed, to detect a body that is too large.
    raw = request.read(settings.GATEWAY_BODY_MAX_BYTES + 1)
    try:
        token, access = await _threads.run(_authenticate, bearer=read_bearer_token(request.headers))
        body = await asyncio.to_thread(_parse_body, raw)
    except services.InvalidGatewayToken as error:
        return _unauthorized(error)
    except services.NoOrganizationModel as error:
        return _error(UpstreamRefused(error.status, error.detail, code="no_organization_model"))
    except UpstreamRefused as error:
        return _error(error)
    except DatabaseError as error:
        return _unavailable(error)
    if body.get("stream") is True and not isinstance(request, ASGIRequest):
        return _error(
            UpstreamRefused(
                501,
                "This server process cannot stream. Send the request without stream.",
                code="no_streaming",
            )
        )
    call = Call(token=token, access=access, body=body)
    relay = Relay(call)
    try:
        failure = await call.wait_for_start()
    except asyncio.CancelledError:
        call.abandon()
        raise
    if failure:
        return _error(failure)
    if not call.is_stream:
        content = b"".join([piece async for piece in relay])
        return HttpResponse(content, content_type="application/json")
    headers = {"Cache-Control": "no-cache, no-store", "X-Accel-Buffering": "no"}
    return StreamingHttpResponse(relay, content_type="text/event-stream", headers=headers)


@RouteFacts(streams=True, body_limit="GATEWAY_BODY_MAX_BYTES", cost="uncounted", called_by="agent")
@csrf_exempt
async def models(request: HttpRequest) -> HttpResponse:
    """Handle ``GET models``: return a list with the only model that the token may use."""
    if request.method != "GET":
        return _method_not_allowed("GET")
    try:
        _, access = await _threads.run(_authenticate, bearer=read_bearer_token(request.headers))
    except services.InvalidGatewayToken as error:
        return _unauthorized(error)
    except services.NoOrganizationModel as error:
        return _error(UpstreamRefused(error.status, error.detail, code="no_organization_model"))
    except DatabaseError as error:
        return _unavailable(error)
    model = {
        "id": access.model if access else services.DEMO_MODEL,
        "object": "model",
        "created": script.CREATED,
        "owned_by": "upstream" if access else services.DEMO_MODEL,
    }
    return JsonResponse({"object": "list", "data": [model]})


class Call:
    """One model call, from the request to its usage record. Creating the object starts the call."""

    def __init__(self, *, token: GatewayToken, access: ModelAccess | None, body: Json) -> None:
        self._token, self._access = token, access
        self.is_stream = body.get("stream") is True
        self._body = body | {"model": access.model if access else services.DEMO_MODEL}
        if self.is_stream:
            # Without this option most servers do not report the usage of a stream.
            options = body.get("stream_options")
            requested = options if isinstance(options, dict) else {}
            self._body["stream_options"] = requested | {"include_usage": True}
        self._meter = Meter()
        self._has_begun = False
        self._started = time.monotonic()
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(PIECES_AHEAD)
        self._loop = asyncio.get_running_loop()
        # The result is None when the response begins, or the failure if there is no response.
        self._head: asyncio.Future[UpstreamRefused | None] = self._loop.create_future()
        self._task = _start_task(self._run())

    async def wait_for_start(self) -> UpstreamRefused | None:
        """Wait until the response begins. If the call fails before that, return the failure, else None."""
        # shield: a cancelled request must not cancel the future, which the task of the call still sets.
        return await asyncio.shield(self._head)

    async def next_piece(self) -> bytes | None:
        """Return the next bytes of the response, or None at the end of the response."""
        return await self._pieces.get()

    def abandon(self) -> None:
        """Cancel the call because the caller has disconnected. Thread-safe and safe to repeat."""
        if not self._task.done() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._task.cancel)

    async def _run(self) -> None:
        failure: UpstreamRefused | None = None
        outcome, status = ModelCall.Outcome.ANSWERED, 200
        try:
            await (self._stream() if self.is_stream else self._whole())
        except asyncio.CancelledError:
            outcome, status = ModelCall.Outcome.ABANDONED, CLIENT_CLOSED
        except UpstreamRefused as error:
            failure = error
        except Exception:
            log.exception("a model call failed")
            failure = UpstreamRefused(
                500,
                "The model gateway failed because of an internal error. Try again.",
                code="server_error",
            )
        if failure:
            outcome, status = ModelCall.Outcome.FAILED, failure.status
        # The usage record is written in a task of its own, which a cancellation of this task does not reach.
        await asyncio.shield(_start_task(self._record(outcome, status)))
        if outcome == ModelCall.Outcome.ABANDONED:
            self._head.cancel()
            return
        if not self._head.done():
            self._head.set_result(failure)
        elif failure:  # the status is already sent, so report the failure as an event of the stream
            await self._pieces.put(script.encode_event(_error_body(failure)))
        await self._pieces.put(None)

    def _open_response(self) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        if self._access is None:
            return player.open_response(self._body, conversation_id=self._token.conversation_id)
        return upstream.open_response(self._access, self._body)

    async def _stream(self) -> None:
        async with self._open_response() as pieces:
            self._has_begun = True
            self._head.set_result(None)
            async for piece in pieces:
                self._meter.feed(piece)
                await self._pieces.put(piece)

    async def _whole(self) -> None:
        raw = bytearray()
        async with self._open_response() as pieces:
            self._has_begun = True
            async for piece in pieces:
                raw += piece
                if len(raw) > upstream.MAX_RESPONSE_BYTES:
                    raise UpstreamRefused(
                        502, "The model server's response is too large.", code="upstream_malformed"
                    )
        self._meter.add_completion(upstream.parse_completion(bytes(raw)))
        self._pieces.put_nowait(bytes(raw))

    async def _record(self, outcome: str, status: int) -> None:
        # A call that failed before the response began used no tokens. An abandoned call used at least the prompt.
        is_free = outcome == ModelCall.Outcome.FAILED and not self._has_begun
        tokens = Tokens() if is_free else self._meter.tokens(self._body.get("messages"))
        try:
            await _threads.run(
                services.record_call,
                token=self._token,
                access=self._access,
                model=self._body["model"],
                outcome=outcome,
                status=status,
                tokens=tokens,
                seconds=time.monotonic() - self._started,
            )
        except Exception:
            log.exception(
                "a model call could not be recorded",
                extra={"conversation": str(self._token.conversation_id), "tokens": repr(tokens)},
            )


class Relay:
    """An async iterator over the pieces of a call's response, from which Django sends the HTTP response.

    When the relay is closed or garbage-collected, the call is abandoned.
    """

    def __init__(self, call: Call) -> None:
        self._call = call

    def __aiter__(self) -> "Relay":
        return self

    async def __anext__(self) -> bytes:
        piece = await self._call.next_piece()
        if piece is None:
            raise StopAsyncIteration
        return piece

    def close(self) -> None:
        """Abandon the call. Django calls this method whenever the response ends."""
        self._call.abandon()

    def __del__(self) -> None:
        # If the client disconnects before the response is sent, Django drops the response without closing it.
        self._call.abandon()


# --- Helpers ------------------------------------------------------------------------


def _start_task(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.get_running_loop().create_task(work)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


def _authenticate(*, bearer: str) -> tuple[GatewayToken, ModelAccess | None]:
    token = services.authenticate_gateway_token(bearer)
    return token, services.get_token_access(token)


def _parse_body(raw: bytes) -> Json:
    limit = settings.GATEWAY_BODY_MAX_BYTES
    if len(raw) > limit:
        raise UpstreamRefused(
            413, f"The request body is larger than {limit} bytes.", code="request_too_large"
        )
    try:
        body = strict_loads(raw, max_depth=settings.JSON_MAX_DEPTH)
    except ValueError as error:
        raise UpstreamRefused(
            400,
            f"The request body cannot be parsed as JSON: {error}.",
            code="invalid_request_error",
        ) from error
    if (
        not isinstance(body, dict)
        or not isinstance(body.get("messages"), list)
        or not body["messages"]
    ):
        raise UpstreamRefused(
            400,
            "The request body must be an object with a non-empty list of messages.",
            code="invalid_request_error",
        )
    return body


def _error_body(failure: UpstreamRefused) -> Json:
    return script.build_error(failure.status, failure.message, code=failure.code, kind=failure.kind)


def _error(failure: UpstreamRefused) -> HttpResponse:
    headers = {"Retry-After": failure.retry_after} if failure.retry_after else {}
    return JsonResponse(_error_body(failure), status=failure.status, headers=headers)


def _unauthorized(error: services.InvalidGatewayToken) -> HttpResponse:
    body = script.build_error(
        401, error.detail, code="invalid_gateway_token", kind="authentication_error"
    )
    return JsonResponse(body, status=401, headers={"WWW-Authenticate": 'Bearer realm="llm"'})


def _unavailable(error: DatabaseError) -> HttpResponse:
    log.error("the model gateway cannot reach the database", exc_info=error)
    return _error(
        UpstreamRefused(
            503,
            "The database is unreachable. Try again in a moment.",
            code="unavailable",
            retry_after="2",
        )
    )


def _method_not_allowed(method: str) -> HttpResponse:
    body = script.build_error(
        405, f"This method is not allowed. Use {method}.", code="method_not_allowed"
    )
    return JsonResponse(body, status=405, headers={"Allow": method})
