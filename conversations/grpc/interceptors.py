"""The interceptor of all gRPC calls: authentication, deadlines, error statuses, metrics and the access log.

Every call needs an API key and a deadline, except health checks and reflection.
"""

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4

import grpc
from django.conf import settings
from django.core.exceptions import ObjectDoesNotExist
from google.protobuf.message import DecodeError
from prometheus_client import Counter, Histogram

from accounts import services as accounts
from accounts.models import User
from accounts.proxies import forwarded_entries, is_trusted
from accounts.services import audit
from conversations.grpc import limits
from conversations.realtime.access import Credentials, build_actor
from lib import causes, open_files
from lib.forwarded import resolve_client
from lib.logs import request_id
from lib.problems import Problem
from lib.threads import DatabaseThreads

log = logging.getLogger("openhands_site.access")
T = TypeVar("T")
OPEN_TO_ALL = ("/grpc.health.v1.Health/", "/grpc.reflection.")
"""Methods that need no API key. They expose no user data, and load balancers and tools call them without a key."""
DEADLINE_MAX_SECONDS = 24 * 3600
STREAMS = ("/Subscribe", "/Append")
"""The ends of the names of methods that stay open. They leave the last open files to other calls."""
# The gRPC status for the HTTP status of a `Problem`.
STATUSES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
handled = Counter(
    "grpc_server_handled", "Completed calls by method and status code.", ["method", "code"]
)
seconds = Histogram(
    "grpc_server_handling_seconds", "Duration of calls in seconds, by method.", ["method"]
)
_threads = DatabaseThreads("grpc", 8)


@dataclass(frozen=True, slots=True)
class RpcCaller:
    """The user of a call, and the credentials that are checked again while a stream is open."""

    user: User
    credentials: Credentials


current_caller: ContextVar[RpcCaller] = ContextVar("grpc_caller")


class Refused(Exception):
    """The exception that ends a call with a gRPC error status and a sentence for the caller."""

    def __init__(self, code: grpc.StatusCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code, self.sentence = code, sentence


async def in_thread(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call ``function`` in a thread of a small pool, with the gRPC caller as the actor of the audit log."""
    actor = _actor(current_caller.get(None))

    def run() -> T:
        with audit.acting(lambda: actor):
            return function(*args, **kwargs)

    return await _threads.run(run)


def _actor(rpc_caller: RpcCaller | None) -> audit.Actor:
    if rpc_caller is None:
        return audit.Actor("anonymous")
    return build_actor(rpc_caller.user, rpc_caller.credentials.address)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """The interceptor that checks the caller before each method, and records metrics and a log line after it."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        handler = await continuation(details)
        if handler is None:
            return handler
        metadata = dict(details.invocation_metadata or ())
        name, token = details.method, _bearer(metadata)
        is_open = name.startswith(OPEN_TO_ALL)

        def checks(context: grpc.aio.ServicerContext) -> Any:
            return _refusing(context) if is_open else _Call(name, token, context)

        async def unary(message: bytes, context: grpc.aio.ServicerContext) -> Any:
            async with checks(context):
                return await handler.unary_unary(_parse(handler, message), context)

        async def stream(message: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            # The handler of a method has exactly one of the two attributes.
            behaviour = handler.unary_stream or handler.stream_stream
            async with checks(context):
                parse = _parse_each if handler.request_streaming else _parse
                responses = behaviour(parse(handler, message), context)
                if inspect.isawaitable(responses):  # it writes its responses itself
                    await responses
                    return
                async for response in responses:
                    yield response

        # By (request is a stream, response is a stream). The API has no method with only a streamed request.
        factories = {
            (False, False): (grpc.unary_unary_rpc_method_handler, unary),
            (False, True): (grpc.unary_stream_rpc_method_handler, stream),
            (True, True): (grpc.stream_stream_rpc_method_handler, stream),
        }
        make, behaviour = factories[handler.request_streaming, handler.response_streaming]
        # Without a deserializer, the behaviour receives the bytes. grpcio 1.85 parses before the call, logs a traceback
        # for a malformed message and ends the call with UNKNOWN.
        return make(behaviour, None, handler.response_serializer)


def _parse(handler: grpc.RpcMethodHandler, message: bytes) -> Any:
    """Return the parsed message. Raise ``Refused`` if the bytes are not a message of the method's type."""
    try:
        return handler.request_deserializer(message)
    except DecodeError as error:
        raise Refused(
            grpc.StatusCode.INVALID_ARGUMENT,
            "The message cannot be parsed. Send the request message of this method in the binary format of Protocol "
            "Buffers, with all texts in UTF-8.",
        ) from error


async def _parse_each(
    handler: grpc.RpcMethodHandler, messages: AsyncIterator[bytes]
) -> AsyncIterator[Any]:
    async for message in messages:
        yield _parse(handler, message)


@asynccontextmanager
async def _refusing(context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
    """End the call with the status of ``Refused`` if the block raises it."""
    try:
        yield
    except Refused as refusal:
        await context.abort(refusal.code, refusal.sentence)


class _Call:
    """One call: the check of the caller at the start, and the metrics and the line in the access log at the end."""

    def __init__(self, name: str, token: str, context: grpc.aio.ServicerContext) -> None:
        self.name, self.token, self.context = name, token, context
        self.address = _client_address(context.peer(), context.invocation_metadata() or ())
        self.started = time.monotonic()
        self.user_id = ""

    async def __aenter__(self) -> None:
        request_id.set(uuid4().hex)
        try:
            await self._admit()
        except Refused as refusal:
            self._record(refusal.code)
            # `abort` raises an exception, so the method does not run.
            await self.context.abort(refusal.code, refusal.sentence)

    async def _admit(self) -> None:
        # Without a deadline, the stream of a client that vanished could stay open forever.
        remaining = self.context.time_remaining()
        if remaining is None or remaining > DEADLINE_MAX_SECONDS:
            raise Refused(
                grpc.StatusCode.INVALID_ARGUMENT,
                "Set a deadline of at most 24 hours on every call.",
            )
        if self.name.endswith(STREAMS) and open_files.room() is not open_files.Room.PLENTY:
            open_files.report_refusal("a gRPC stream")
            raise Refused(grpc.StatusCode.UNAVAILABLE, open_files.REFUSAL)
        rpc_caller = await in_thread(_authenticate, self.token, self.address, self.name)
        self.user_id = str(rpc_caller.user.pk)
        current_caller.set(rpc_caller)

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        code, sentence = _find_status(error)
        self._record(code)
        if error is not None and not isinstance(error, asyncio.CancelledError | GeneratorExit):
            if code is grpc.StatusCode.INTERNAL:
                log.error("%s failed", self.name, exc_info=error)
            # The client may have ended the call in the meantime.
            with suppress(asyncio.InvalidStateError):
                await self.context.abort(code, sentence)

    def _record(self, code: grpc.StatusCode) -> None:
        duration = time.monotonic() - self.started
        handled.labels(self.name, code.name).inc()
        seconds.labels(self.name).observe(duration)
        line = {"method": self.name, "code": code.name, "ms": round(duration * 1000, 1)}
        log.info("grpc", extra=line | ({"user": self.user_id} if self.user_id else {}))


def _find_status(error: BaseException | None) -> tuple[grpc.StatusCode, str]:
    if error is None:
        return grpc.StatusCode.OK, ""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return grpc.StatusCode.CANCELLED, ""
    if isinstance(error, Refused):
        return error.code, error.sentence
    if isinstance(error, Problem):
        return STATUSES.get(error.status, grpc.StatusCode.INVALID_ARGUMENT), error.detail
    if isinstance(error, ObjectDoesNotExist):
        return (
            grpc.StatusCode.NOT_FOUND,
            "The conversation or organization does not exist, or you have no access to it.",
        )
    if cause := causes.find_cause(error):
        causes.log_cause(log, cause, error)
        return grpc.StatusCode.UNAVAILABLE, cause.sentence
    sentence = f"An error occurred on the server. Report it with the request id {request_id.get()}."
    return grpc.StatusCode.INTERNAL, sentence


def _authenticate(token: str, address: str, method: str) -> RpcCaller:
    """Return the caller with this API key, and count the call.

    Raise ``Refused`` if the token is not a valid API key or if a rate limit is exceeded.
    """
    try:
        return _authenticate_counted(token, address, method)
    except limits.TooManyCalls as error:
        raise Refused(error.code, str(error)) from error


def _authenticate_counted(token: str, address: str, method: str) -> RpcCaller:
    limits.count_address(address)
    credentials = Credentials(keys=(token,) if token.startswith("oh_") else (), address=address)
    user = credentials.user()
    if user is None:
        # The counter is that of the address: a client can invent any number of keys.
        limits.count_invalid_key(address)
        raise Refused(grpc.StatusCode.UNAUTHENTICATED, accounts.InvalidKey.sentence)
    limits.count_call(user, method)
    return RpcCaller(user, credentials)


def _bearer(metadata: dict[str, Any]) -> str:
    scheme, _, token = str(metadata.get("authorization", "")).partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _client_address(peer: str, metadata: Iterable[tuple[str, Any]]) -> str:
    """Return the address of the client: that of the connection, or the one that a trusted proxy reports."""
    address = _address(peer)
    if not settings.TRUSTED_PROXIES:
        return address
    entries = forwarded_entries(
        (name.lower().encode(), value) for name, value in metadata if isinstance(value, str)
    )
    found = resolve_client(address or "unix", entries, is_trusted)
    return "" if found == "unix" else found


def _address(peer: str) -> str:
    """Return the IP address in gRPC's peer name (``ipv4:1.2.3.4:5`` or ``ipv6:%5B::1%5D:5``), or "" without one."""
    family, _, rest = peer.partition(":")
    if family not in ("ipv4", "ipv6"):
        return ""
    return rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")
