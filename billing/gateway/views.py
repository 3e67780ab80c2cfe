"""The OpenAI-compatible model gateway: who calls, with which model, and what it used.

Sandboxes call it with a token of their conversation; the real key stays here. A call runs in a task of its
own, beside the request: whatever becomes of the caller, the call ends in one record.
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
"""How far an upstream may be ahead of its reader, in pieces; then it waits."""
CLIENT_CLOSED = 499
_threads = DatabaseThreads("gateway", 8)
_running: set[asyncio.Task[Any]] = set()  # the loop itself holds tasks only weakly


@RouteFacts(streams=True, body_limit="GATEWAY_BODY_MAX_BYTES", cost="uncounted", called_by="agent")
@csrf_exempt
async def chat_completions(request: HttpRequest) -> HttpResponseBase:
    """``POST chat/completions``: forward to the model of the token's user and record what it used."""
    if request.method != "POST":
        return _method_not_allowed("POST")
    raw = request.read(settings.GATEWAY_BODY_MAX_BYTES + 1)
    try:
        token, access = await _threads.run(_caller, bearer=read_bearer_token(request.headers))
        body = await asyncio.to_thread(_body, raw)
    except services.InvalidGatewayToken as error:
        return _unauthorized(error)
    except UpstreamRefused as error:
        return _error(error)
    except DatabaseError as error:
        return _unavailable(error)
    if body.get("stream") is True and not isinstance(request, ASGIRequest):
        return _error(UpstreamRefused(501, "This process does not stream.", code="no_streaming"))
    call = Call(token=token, access=access, body=body)
    relay = Relay(call)
    try:
        refused = await call.begun()
    except asyncio.CancelledError:
        call.abandon()
        raise
    if refused:
        return _error(refused)
    if not call.is_stream:
        content = b"".join([piece async for piece in relay])
        return HttpResponse(content, content_type="application/json")
    headers = {"Cache-Control": "no-cache, no-store", "X-Accel-Buffering": "no"}
    return StreamingHttpResponse(relay, content_type="text/event-stream", headers=headers)


@RouteFacts(streams=True, body_limit="GATEWAY_BODY_MAX_BYTES", cost="uncounted", called_by="agent")
@csrf_exempt
async def models(request: HttpRequest) -> HttpResponse:
    """``GET models``: the one model that the token reaches."""
    if request.method != "GET":
        return _method_not_allowed("GET")
    try:
        _, access = await _threads.run(_caller, bearer=read_bearer_token(request.headers))
    except services.InvalidGatewayToken as error:
        return _unauthorized(error)
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
    """One call of a model on its way, from the request to the record. Starts at once."""

    def __init__(self, *, token: GatewayToken, access: ModelAccess | None, body: Json) -> None:
        self._token, self._access = token, access
        self.is_stream = body.get("stream") is True
        self._body = body | {"model": access.model if access else services.DEMO_MODEL}
        if self.is_stream:
            options = body.get("stream_options")
            asked = options if isinstance(options, dict) else {}
            self._body["stream_options"] = asked | {"include_usage": True}
        self._meter = Meter()
        self._has_begun = False
        self._started = time.monotonic()
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(PIECES_AHEAD)
        self._loop = asyncio.get_running_loop()
        self._head: asyncio.Future[UpstreamRefused | None] = self._loop.create_future()
        self._task = _keep(self._run())

    async def begun(self) -> UpstreamRefused | None:
        """Wait until the first byte can go out; a refusal when there will be none."""
        return await asyncio.shield(self._head)

    async def piece(self) -> bytes | None:
        """The next bytes of the answer; None at its end."""
        return await self._pieces.get()

    def abandon(self) -> None:
        """Nobody reads any more: stop the upstream. From any thread, at any time, any number of times."""
        if not self._task.done() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._task.cancel)

    async def _run(self) -> None:
        refused: UpstreamRefused | None = None
        outcome, status = ModelCall.Outcome.ANSWERED, 200
        try:
            await (self._stream() if self.is_stream else self._whole())
        except asyncio.CancelledError:
            outcome, status = ModelCall.Outcome.ABANDONED, CLIENT_CLOSED
        except UpstreamRefused as error:
            refused = error
        except Exception:
            log.exception("a model call failed")
            refused = UpstreamRefused(500, "The gateway failed.", code="server_error")
        if refused:
            outcome, status = ModelCall.Outcome.FAILED, refused.status
        # A cancellation must not reach the record: it runs in a task that nobody cancels.
        await asyncio.shield(_keep(self._record(outcome, status)))
        if outcome == ModelCall.Outcome.ABANDONED:
            self._head.cancel()
            return
        if not self._head.done():
            self._head.set_result(refused)
        elif refused:  # too late for a status: the stream says it
            await self._pieces.put(script.server_sent(_error_body(refused)))
        await self._pieces.put(None)

    def _answer(self) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        if self._access is None:
            return player.answer(self._body, conversation_id=self._token.conversation_id)
        return upstream.answer(self._access, self._body)

    async def _stream(self) -> None:
        async with self._answer() as pieces:
            self._has_begun = True
            self._head.set_result(None)
            async for piece in pieces:
                self._meter.feed(piece)
                await self._pieces.put(piece)

    async def _whole(self) -> None:
        raw = bytearray()
        async with self._answer() as pieces:
            self._has_begun = True
            async for piece in pieces:
                raw += piece
                if len(raw) > upstream.MAX_ANSWER_BYTES:
                    raise UpstreamRefused(
                        502, "The answer is too large.", code="upstream_malformed"
                    )
        self._meter.take(upstream.completion(bytes(raw)))
        self._pieces.put_nowait(bytes(raw))

    async def _record(self, outcome: str, status: int) -> None:
        # A call refused before it began used nothing; one abandoned has sent its prompt all the same.
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
    """The reader's side of a call, as the content of a response; a call without its relay is abandoned."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def __aiter__(self) -> "Relay":
        return self

    async def __anext__(self) -> bytes:
        piece = await self._call.piece()
        if piece is None:
            raise StopAsyncIteration
        return piece

    def close(self) -> None:
        """Django calls this when the response is over, however it ended."""
        self._call.abandon()

    def __del__(self) -> None:
        # A response that a disconnect keeps from ever being sent is not closed, only dropped.
        self._call.abandon()


# --- Small parts --------------------------------------------------------------------


def _keep(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.get_running_loop().create_task(work)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


def _caller(*, bearer: str) -> tuple[GatewayToken, ModelAccess | None]:
    token = services.authenticate_gateway_token(bearer)
    access = services.model_access_of(organization_id=token.organization_id, user_id=token.user_id)
    return token, access


def _body(raw: bytes) -> Json:
    limit = settings.GATEWAY_BODY_MAX_BYTES
    if len(raw) > limit:
        raise UpstreamRefused(
            413, f"A request has at most {limit} bytes.", code="request_too_large"
        )
    try:
        body = strict_loads(raw, max_depth=settings.JSON_MAX_DEPTH)
    except ValueError as error:
        raise UpstreamRefused(
            400, f"The body is not the JSON we take: {error}.", code="invalid_request_error"
        ) from error
    if (
        not isinstance(body, dict)
        or not isinstance(body.get("messages"), list)
        or not body["messages"]
    ):
        raise UpstreamRefused(
            400, "The body is an object with a list of messages.", code="invalid_request_error"
        )
    return body


def _error_body(refused: UpstreamRefused) -> Json:
    return script.error_body(refused.status, refused.message, code=refused.code, kind=refused.kind)


def _error(refused: UpstreamRefused) -> HttpResponse:
    headers = {"Retry-After": refused.retry_after} if refused.retry_after else {}
    return JsonResponse(_error_body(refused), status=refused.status, headers=headers)


def _unauthorized(error: services.InvalidGatewayToken) -> HttpResponse:
    body = script.error_body(
        401, error.detail, code="invalid_gateway_token", kind="authentication_error"
    )
    return JsonResponse(body, status=401, headers={"WWW-Authenticate": 'Bearer realm="llm"'})


def _unavailable(error: DatabaseError) -> HttpResponse:
    log.error("the database does not answer the gateway", exc_info=error)
    return _error(
        UpstreamRefused(
            503, "The database does not answer; try again.", code="unavailable", retry_after="2"
        )
    )


def _method_not_allowed(method: str) -> HttpResponse:
    body = script.error_body(405, f"Use {method}.", code="method_not_allowed")
    return JsonResponse(body, status=405, headers={"Allow": method})
