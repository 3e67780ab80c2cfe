"""Rules for bodies while they arrive: who may send a large one, how many at once, and how slowly.

Django's handlers write a whole body to a temporary file before a view checks the caller. This module checks the caller
of a large body from the head of the request, and limits what unfinished bodies may occupy.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from django.conf import settings
from django.db import Error

from lib import causes
from lib.logs import once_a_minute
from lib.threads import DatabaseThreads
from openhands_site.serving.bodies import MEMORY_BYTES, body_limit, fits, refuse
from openhands_site.serving.callers import has_valid_credential

log = logging.getLogger(__name__)
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
_threads = DatabaseThreads("heads", 2)
RETRY = (b"retry-after", b"5")


class Refused(Exception):
    """The reason to refuse a body: status, code, sentence and further headers of the response."""

    def __init__(
        self, status: int, code: str, sentence: str, *headers: tuple[bytes, bytes]
    ) -> None:
        super().__init__(sentence)
        self.status, self.code, self.sentence, self.headers = status, code, sentence, headers


class ArrivingBodies:
    """ASGI middleware for the bodies of requests.

    - Above ``ANONYMOUS_BODY_MAX_BYTES`` the request needs a valid key or session (401), before the body is read.
    - A network address may have ``OPEN_BODIES_PER_ADDRESS`` unfinished bodies (429).
    - Bodies in temporary files have ``BODIES_DISK_MAX_BYTES`` together, and half of it for one address (503).
    - A body must arrive within ``BODY_SECONDS``, plus one second for each ``BODY_BYTES_PER_SECOND`` (408).
    """

    def __init__(self, application: Any) -> None:
        self.application = application
        self._open: Counter[str] = Counter()
        """The number of unfinished bodies by network address."""
        self._bytes: Counter[str] = Counter()
        """The size of bodies in temporary files by network address."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        is_chunked = b"transfer-encoding" in headers
        if length in (b"", b"0") and not is_chunked:
            await self.application(scope, receive, send)
            return
        if not fits(length, body_limit(scope["path"])):
            # ``BodyLimit`` refuses the request with 413, however much room there is.
            await self.application(scope, receive, send)
            return
        size = 0 if is_chunked else int(length)
        body = _Body(self, scope, receive, send)
        try:
            await body.admit(size)
        except Refused as refusal:
            await body.refuse(refusal)
            return
        try:
            await self.application(scope, body.receive, body.send)
        finally:
            body.finish()
            body.release()

    def take(self, address: str) -> None:
        """Count an unfinished body. Raise ``Refused`` if its address has too many."""
        if self._open[address] >= settings.OPEN_BODIES_PER_ADDRESS:
            raise Refused(
                429,
                "too-many-bodies",
                f"{settings.OPEN_BODIES_PER_ADDRESS} requests of your network address are still sending their "
                "body. Try again when some of them are complete.",
                RETRY,
            )
        self._open[address] += 1

    def give_back(self, address: str) -> None:
        _subtract(self._open, address, 1)

    def occupy(self, address: str, size: int) -> None:
        """Count bytes of a temporary file. Raise ``Refused`` if there are too many."""
        most = settings.BODIES_DISK_MAX_BYTES
        if self._bytes.total() + size > most or self._bytes[address] + size > most // 2:
            raise Refused(
                503,
                "too-many-bodies",
                "The server is receiving too many large bodies at the moment. Try again in a few seconds.",
                RETRY,
            )
        self._bytes[address] += size

    def free(self, address: str, size: int) -> None:
        _subtract(self._bytes, address, size)


class _Body:
    """One body: its ``receive`` checks the rules, and its ``send`` drops the response of a refused request."""

    def __init__(self, bodies: ArrivingBodies, scope: Scope, receive: Receive, send: Send) -> None:
        self._bodies, self._scope, self._receive, self._send = bodies, scope, receive, send
        self._address = str((scope.get("client") or ("",))[0])
        self._size = self._occupied = 0
        self._seconds = 0.0
        """The time for which the server has waited for the client."""
        self._is_open = False
        self._is_known = False
        self._has_answered = self._is_refused = False

    async def admit(self, size: int) -> None:
        """Check the caller of a large body, and count the body. ``size`` is 0 if the head does not state it."""
        if size > settings.ANONYMOUS_BODY_MAX_BYTES:
            await self._check_caller()
        self._bodies.take(self._address)
        self._is_open = True
        try:
            self._occupy(size)
        except Refused:
            self.finish()
            raise

    async def receive(self) -> dict[str, Any]:
        if not self._is_open:
            return {"type": "http.disconnect"} if self._is_refused else await self._receive()
        try:
            message = await self._receive_in_time()
            self._size += len(message.get("body", b""))
            if self._size > settings.ANONYMOUS_BODY_MAX_BYTES:
                await self._check_caller()
            self._occupy(self._size)
        except Refused as refusal:
            self.finish()
            if not self._has_answered:
                await self.refuse(refusal)
            self._is_refused = True
            return {"type": "http.disconnect"}
        if not message.get("more_body", False):
            self.finish()
        return message

    async def send(self, message: dict[str, Any]) -> None:
        if not self._is_refused:
            self._has_answered = True
            await self._send(message)

    async def refuse(self, refusal: Refused) -> None:
        once_a_minute(
            log,
            logging.WARNING,
            refusal.code,
            f"refused a body of {self._address} with {refusal.status}: {refusal.sentence}",
        )
        self._is_refused = True
        await refuse(
            self._scope,
            self._send,
            refusal.status,
            refusal.code,
            refusal.sentence,
            *refusal.headers,
        )

    def finish(self) -> None:
        """Stop counting the body as unfinished. Safe to repeat."""
        if self._is_open:
            self._is_open = False
            self._bodies.give_back(self._address)

    def release(self) -> None:
        """Stop counting the temporary file, which the application has closed by now. Safe to repeat."""
        self._bodies.free(self._address, self._occupied)
        self._occupied = 0

    async def _receive_in_time(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        allowed = settings.BODY_SECONDS + self._size / settings.BODY_BYTES_PER_SECOND
        began = loop.time()
        try:
            async with asyncio.timeout(allowed - self._seconds):
                return await self._receive()
        except TimeoutError as error:
            # Without "connection: close", because uvicorn would then close the connection immediately, and the client's
            # next bytes would cost it the response. ``GuardedHttp`` closes it after a while.
            raise Refused(
                408,
                "request-timeout",
                f"Only {self._size} bytes of the body arrived in {allowed:.0f} seconds. Send the body faster.",
            ) from error
        finally:
            self._seconds += loop.time() - began

    async def _check_caller(self) -> None:
        if self._is_known:
            return
        try:
            self._is_known = await _threads.run(has_valid_credential, self._scope)
        except Error as error:
            cause = causes.explain(error) or causes.UNREACHABLE
            causes.log_cause(log, cause, error)
            raise Refused(cause.status, cause.code, cause.sentence, RETRY) from error
        if not self._is_known:
            raise Refused(
                401,
                "not-authenticated",
                f"A body of more than {settings.ANONYMOUS_BODY_MAX_BYTES} bytes needs a valid API key or session. "
                "Sign in, or send your key in the header Authorization: Bearer.",
                (b"www-authenticate", b'Bearer realm="api"'),
            )

    def _occupy(self, size: int) -> None:
        """Count the bytes of the temporary file to which the body is written, if it needs one."""
        if size > MEMORY_BYTES and size > self._occupied:
            self._bodies.occupy(self._address, size - self._occupied)
            self._occupied = size


def _subtract(counter: Counter[str], key: str, amount: int) -> None:
    counter[key] -= amount
    if counter[key] <= 0:
        del counter[key]
