"""One model call, which runs in its own task beside the request, and the iterator over its response."""

import asyncio
import json
import logging
import time
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any
from uuid import uuid4

from django.db import DatabaseError

from billing import services
from billing.gateway import answers, player, script, upstream
from billing.gateway.metering import Meter
from billing.gateway.refusals import UpstreamRefused
from billing.models import GatewayToken, ModelAccess, ModelCall
from billing.prices import Tokens
from lib.threads import DatabaseThreads

log = logging.getLogger(__name__)
Json = dict[str, Any]
PIECES_AHEAD = 16
"""The maximum number of pieces that wait for the caller. When it is reached, the gateway stops reading the response."""
CLIENT_CLOSED = 499
"""The status in the record of an abandoned call, as nginx logs it. It is not sent."""
ADMISSION_PAUSE = 0.5
"""Seconds between two attempts to begin a call that waits for the cost of other calls."""
ADMISSION_SECONDS = 120.0
EXTENSION_SECONDS = 60.0
"""How often a long call extends its reservation."""
threads = DatabaseThreads("gateway", 8)
_running: set[asyncio.Task[Any]] = set()  # the event loop holds only weak references to tasks


class Call:
    """One model call, from the request to its usage record. Creating the object starts the call.

    ``size`` is the size of the request in bytes.
    """

    def __init__(
        self, *, token: GatewayToken, access: ModelAccess | None, body: Json, size: int
    ) -> None:
        self._token, self._access = token, access
        self.is_stream = body.get("stream") is True
        self._body = body | {"model": access.model if access else services.DEMO_MODEL}
        self._size = size
        self._id = uuid4()
        self._meter = Meter()
        self._is_admitted = self._has_begun = False
        self._started = self._extended = time.monotonic()
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
            await self._admit()
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
        if self._is_admitted:
            await asyncio.shield(_start_task(self._record(outcome, status, failure)))
        if outcome == ModelCall.Outcome.ABANDONED:
            self._head.cancel()
            return
        if not self._head.done():
            self._head.set_result(failure)
        elif failure:  # the status is already sent, so report the failure as an event of the stream
            await self._pieces.put(script.encode_event(build_error_body(failure)))
        await self._pieces.put(None)

    # --- Admission ------------------------------------------------------------------

    async def _admit(self) -> None:
        """Begin the call at the services, which check the limits. Wait while other calls reserve the budget's rest."""
        deadline = time.monotonic() + ADMISSION_SECONDS
        while True:
            attempt = _start_task(self._begin())
            try:
                await asyncio.shield(attempt)
            except asyncio.CancelledError:
                await asyncio.gather(attempt, return_exceptions=True)  # it may have begun the call
                raise
            except services.BudgetReserved as error:
                if time.monotonic() >= deadline:
                    raise _refuse(error) from error
            except services.CallRefused as error:
                raise _refuse(error) from error
            except DatabaseError as error:
                raise explain_database_error(error) from error
            else:
                return
            await asyncio.sleep(ADMISSION_PAUSE)

    async def _begin(self) -> None:
        await threads.run(
            services.begin_call,
            call_id=self._id,
            token=self._token,
            access=self._access,
            tokens=services.estimate_tokens(self._body, size=self._size),
        )
        self._is_admitted = True

    async def _extend(self) -> None:
        """Extend the reservation of a long call."""
        now = time.monotonic()
        if now - self._extended >= EXTENSION_SECONDS:
            self._extended = now
            try:
                await threads.run(services.extend_call, call_id=self._id)
            except DatabaseError:
                log.warning("the reservation of a model call could not be extended", exc_info=True)

    # --- Response -------------------------------------------------------------------

    def _open_response(self) -> AbstractAsyncContextManager[upstream.Response]:
        if self._access is None:
            return player.open_response(self._body, conversation_id=self._token.conversation_id)
        return upstream.open_response(self._access, self._body)

    async def _stream(self) -> None:
        async with self._open_response() as response:
            self._has_begun = True
            chunks = answers.read_stream(
                response.pieces, content_type=response.content_type, key=response.key
            )
            async with aclosing(chunks):
                async for chunk in chunks:
                    if chunk.body is not None:
                        self._meter.add(chunk.body)
                    if chunk.raw:
                        # Until now, an error in the response could be sent with its own status.
                        if not self._head.done():
                            self._head.set_result(None)
                        await self._pieces.put(chunk.raw)
                    await self._extend()

    async def _whole(self) -> None:
        async with self._open_response() as response:
            self._has_begun = True
            body = await answers.read_completion(
                response.pieces,
                content_type=response.content_type,
                key=response.key,
                each=self._extend,
            )
        self._meter.add(body)
        self._pieces.put_nowait(json.dumps(body).encode())

    # --- Record ---------------------------------------------------------------------

    async def _record(self, outcome: str, status: int, failure: UpstreamRefused | None) -> None:
        try:
            await threads.run(
                services.record_call,
                call_id=self._id,
                token=self._token,
                access=self._access,
                model=self._body["model"],
                outcome=outcome,
                status=status,
                tokens=self._count_tokens(failure),
                seconds=time.monotonic() - self._started,
                error=failure.message if failure else "",
            )
        except Exception:
            log.exception(
                "a model call could not be recorded",
                extra={"conversation": str(self._token.conversation_id)},
            )

    def _count_tokens(self, failure: UpstreamRefused | None) -> Tokens:
        """Return the tokens to charge. A failure is free unless the model wrote something or the response was lost.

        An abandoned call used at least the prompt.
        """
        if failure and not self._meter.has_output:
            was_lost = self._has_begun and failure.code in upstream.LOST_CODES
            if not was_lost:
                return Tokens()
        return self._meter.tokens(self._body.get("messages"))


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


def build_error_body(failure: UpstreamRefused) -> Json:
    """Return the body of an error response in the format of OpenAI's API."""
    return script.build_error(failure.status, failure.message, code=failure.code, kind=failure.kind)


def explain_database_error(error: DatabaseError) -> UpstreamRefused:
    """Log the error, and return the failure for the caller."""
    log.error("the model gateway cannot reach the database", exc_info=error)
    return UpstreamRefused(
        503,
        "The database is unreachable. Try again in a moment.",
        code="unavailable",
        retry_after="2",
    )


def _refuse(error: services.CallRefused) -> UpstreamRefused:
    return UpstreamRefused(
        error.status,
        error.detail,
        code=error.code.replace("-", "_"),
        retry_after=error.retry_after,
    )


def _start_task(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.get_running_loop().create_task(work)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task
