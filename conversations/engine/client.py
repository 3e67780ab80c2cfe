"""The HTTP client of a sandbox's engine. No other module calls the engine's HTTP API.

``following`` reads the socket of its events, and ``errors`` has the exceptions of both.
"""

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any
from uuid import UUID

import httpx2

from conversations.engine import payloads
from conversations.engine.errors import (
    EngineMissing,
    EngineRefused,
    EngineTimedOut,
    EngineUnreachable,
)
from conversations.engine.payloads import Durable
from conversations.engine.transport import ENGINE_URL, Dial, DialTransport
from lib.blocking import announce_wait

READ_SECONDS = 30.0
TOOL_SECONDS = 600.0
"""The timeout of calls that wait until the running tool ends. It is longer than a tool may run."""
INTERRUPT_SECONDS = 10.0
PAGE = 100
"""The number of events that one request asks for."""
BODY_MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The result of a shell command. If ``timed_out``, the engine killed the command and its output is lost."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def timed_out(self) -> bool:
        """Whether the engine killed the command after the timeout; it then reports the exit code -1."""
        return self.exit_code == -1


class Download:
    """A file that is downloaded from a sandbox. Iterate over its chunks once; the connection is closed at the end."""

    def __init__(self, response: httpx2.Response, client: httpx2.Client) -> None:
        self._response, self._client = response, client
        length = response.headers.get("content-length", "")
        self.size: int | None = int(length) if length.isdecimal() else None

    def __iter__(self) -> Iterator[bytes]:
        chunks = self._response.iter_bytes(65_536)
        try:
            while True:
                # The web server may read each chunk in another thread.
                announce_wait()
                if (chunk := next(chunks, None)) is None:
                    return
                yield chunk
        except httpx2.RequestError as error:
            raise _unreachable(error) from error
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection; safe to repeat."""
        self._response.close()
        self._client.close()


class EngineClient:
    """The HTTP client of one engine. It is cheap to create, keeps no connection open, and is thread-safe.

    ``dial`` connects to the engine; it is called for each request. Every method may raise ``EngineUnreachable``,
    ``EngineRefused`` or ``EngineMissing``. A request that is safe to repeat is retried once after a connection reset.
    Times are in seconds.
    """

    def __init__(self, dial: Dial, session_key: str) -> None:
        self._dial = dial
        self._session_key = session_key

    # --- The server ---

    def is_ready(self) -> bool:
        """Return whether the engine responds and is ready."""
        try:
            self._call("GET", "/ready", read=2.0)
        except (EngineUnreachable, EngineRefused):
            return False
        return True

    def get_server_info(self) -> dict[str, Any]:
        """Return the engine's versions and capabilities (``version``, ``sdk_version``, ``tools_version``, …)."""
        return self._object("GET", "/server_info")

    # --- Conversations ---

    def start_conversation(self, body: dict[str, Any]) -> dict[str, Any]:
        """Create a conversation; ``body`` is built by ``payloads.build_start_request``. Return the engine's record.

        Safe to repeat: if the id exists, the existing record is returned. After an ``EngineRefused`` with a status of
        500 or more, a half-created conversation may exist: delete it, unless it was started successfully before.
        """
        return self._object("POST", "/api/conversations", json=body, read=120.0)

    def get_conversation(self, conversation_id: UUID) -> dict[str, Any] | None:
        """Return the engine's record of a conversation, or None after a 404, which does not prove a deletion."""
        try:
            return self._object("GET", _conversation(conversation_id))
        except EngineMissing:
            return None

    def set_secrets(self, conversation_id: UUID, secrets: dict[str, Any]) -> None:
        """Add or replace secrets (``StaticSecret``, ``LookupSecret``) by name. Safe to repeat."""
        self._call("POST", f"{_conversation(conversation_id)}/secrets", json={"secrets": secrets})

    def delete_conversation(self, conversation_id: UUID) -> None:
        """Delete a conversation from the engine, after its running tool ends. The workspace is kept. Safe to repeat."""
        with contextlib.suppress(EngineMissing):
            self._call("DELETE", _conversation(conversation_id), read=TOOL_SECONDS)

    def send_message(
        self, conversation_id: UUID, *, text: str, images: Iterable[str] = (), run: bool
    ) -> bool:
        """Post a user's message, and run the agent if ``run`` is set. Return whether the agent runs.

        If ``run`` is set and the result is False, the message is saved but the engine has no free run slot: call
        ``run`` later. ``images`` are URLs or data URLs. The call waits until a running step ends. NOT safe to repeat:
        after an ``EngineUnreachable`` with ``maybe_done``, call ``wait_for_messages`` and look for the message first.
        While a confirmation is pending, a message with ``run`` approves it.
        """
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        if urls := list(images):
            content.append({"type": "image", "image_urls": urls})
        body = {"role": "user", "content": content, "run": run}
        path = f"{_conversation(conversation_id)}/events"
        try:
            self._call("POST", path, json=body, read=TOOL_SECONDS, repeatable=False)
        except EngineRefused as refusal:
            if refusal.status != 429:
                raise
            # The engine saves the message before it responds that all run slots are taken.
            return False
        return run

    def run(self, conversation_id: UUID) -> None:
        """Run the agent. This approves a pending confirmation. Do nothing if the agent is running already."""
        try:
            self._call("POST", f"{_conversation(conversation_id)}/run", read=TOOL_SECONDS)
        except EngineRefused as refusal:
            # 409: the agent is running already.
            if refusal.status != 409:
                raise

    def interrupt(self, conversation_id: UUID) -> None:
        """Stop the running model call or tool immediately. Safe to repeat."""
        # The engine answers when the run has ended, or after five seconds.
        self._call("POST", f"{_conversation(conversation_id)}/interrupt", read=INTERRUPT_SECONDS)

    def answer_confirmation(self, conversation_id: UUID, *, accept: bool, reason: str = "") -> None:
        """Approve or reject all pending actions. After a rejection, the agent is idle until ``run`` is called.

        Not safe to repeat: a second call may answer the next question.
        """
        self._call(
            "POST",
            f"{_conversation(conversation_id)}/events/respond_to_confirmation",
            json={"accept": accept, "reason": reason or "Rejected by the user."},
            repeatable=False,
        )

    def set_confirmation_policy(self, conversation_id: UUID, policy: str) -> None:
        """Set the ``ConfirmationPolicy``. The call waits until a running step ends. Safe to repeat."""
        self._call(
            "POST",
            f"{_conversation(conversation_id)}/confirmation_policy",
            json={"policy": payloads.build_policy(policy)},
            read=TOOL_SECONDS,
        )

    def set_security_analyzer(self, conversation_id: UUID, analyzer: str) -> None:
        """Set the ``SecurityAnalyzer``. The call waits until a running step ends. Safe to repeat."""
        self._call(
            "POST",
            f"{_conversation(conversation_id)}/security_analyzer",
            json={"security_analyzer": payloads.build_analyzer(analyzer)},
            read=TOOL_SECONDS,
        )

    def navigate(self, conversation_id: UUID, event_id: str) -> dict[str, Any]:
        """Make an event the conversation's head, so that the engine rebuilds the model's context. Safe to repeat."""
        path = f"{_conversation(conversation_id)}/navigate"
        return self._object("POST", path, json={"event_id": event_id}, read=TOOL_SECONDS)

    def wait_for_messages(self, conversation_id: UUID) -> None:
        """Return when all messages that the engine received before this call are in its log. Safe to repeat.

        This call sets the conversation's tags to their current values, which adds no event to the log. For this, the
        engine needs its lock on the conversation, for which all earlier messages are served first
        (``sdk/conversation/fifo_lock.py``).
        """
        info = self._object("GET", _conversation(conversation_id))
        tags = info.get("tags") or {}
        # Twice, because a message to an unloaded conversation takes the lock twice (`_ensure_agent_ready`, then
        # `send_message`).
        for _ in range(2):
            self._call(
                "PATCH", _conversation(conversation_id), json={"tags": tags}, read=TOOL_SECONDS
            )

    # --- The log ---

    def iter_events(
        self, conversation_id: UUID, *, after_id: str | None = None, after_seq: int = -1
    ) -> Iterator[Durable]:
        """Yield the events of the engine's log after a known event (its id and index), in order.

        If the engine does not know the id, all events are read and counted from 0, and those after the index
        ``after_seq`` are yielded. Callers must skip events whose id they know already: the engine omits unreadable
        events, which shifts all later indices (``count_events`` includes unreadable events).
        """
        # The engine's first page starts at the known event itself, or at the start of the log if it is unknown.
        page_id = after_id
        items, next_id = self._read_page(conversation_id, page_id)
        is_known = bool(
            page_id and items and payloads.parse_event(items[0], seq=after_seq).event_id == page_id
        )
        seq = after_seq if is_known else 0
        while True:
            for item in items:
                if seq > after_seq:
                    yield Durable(seq, payloads.parse_event(item, seq=seq))
                seq += 1
            if not next_id or not items:
                return
            items, next_id = self._read_page(conversation_id, next_id)

    def _read_page(
        self, conversation_id: UUID, page_id: str | None
    ) -> tuple[list[bytes], str | None]:
        """Return the JSON texts of a page of events, and the id of the next page.

        If a page is too large for the engine or for this client, a tenth of its events is requested instead.
        """
        limit = PAGE
        path = f"{_conversation(conversation_id)}/events/search"
        while True:
            query: dict[str, Any] = {"limit": limit} | ({"page_id": page_id} if page_id else {})
            try:
                return payloads.parse_page(self._call("GET", path, params=query, read=60.0))
            except ValueError as error:
                refusal = EngineRefused(200, str(error))
            except EngineMissing:
                raise
            except EngineRefused as error:
                refusal = error
            if limit == 1:
                raise refusal
            limit = max(1, limit // 10)

    def count_events(self, conversation_id: UUID) -> int:
        """Return the number of events in the engine's log, including unreadable events."""
        body = self._json("GET", f"{_conversation(conversation_id)}/events/count")
        if type(body) is not int:
            raise EngineRefused(200, "the event count in the response is not a number")
        return body

    # --- The workspace ---

    def execute(self, command: str, *, cwd: str, timeout: int = 300) -> CommandResult:
        """Run a command in a shell other than the agent's, and wait until it ends. The request is not retried."""
        body = self._object(
            "POST",
            "/api/bash/execute_bash_command",
            json={"command": command, "cwd": cwd, "timeout": timeout},
            read=timeout + 30.0,
            repeatable=False,
        )
        code, out, err = body.get("exit_code"), body.get("stdout"), body.get("stderr")
        return CommandResult(
            exit_code=code if type(code) is int else -1,
            stdout=out if isinstance(out, str) else "",
            stderr=err if isinstance(err, str) else "",
        )

    def upload(self, path: str, content: bytes | IO[bytes]) -> int:
        """Write a file to an absolute path and return its size in bytes.

        Missing folders are created, and an existing file is replaced.
        """
        body = self._object(
            "POST",
            "/api/file/upload",
            params={"path": path},
            files={"file": ("file", content, "application/octet-stream")},
            read=TOOL_SECONDS,
            repeatable=isinstance(content, bytes),  # a stream cannot be sent a second time
        )
        size = body.get("file_size")
        return size if type(size) is int else 0

    def download(self, path: str) -> Download:
        """Return the chunks of a file at an absolute path. The caller must iterate over the result or close it.

        The engine returns any file that the engine's user may read, so check the path first.
        """
        return self._stream("/api/file/download", {"path": path})

    # --- HTTP ---

    def _client(self, read: float) -> httpx2.Client:
        # One connection per request: after an unhandled error the engine silently drops a keep-alive connection, so the
        # next request on that connection, perhaps a message, would end in a reset.
        return httpx2.Client(
            base_url=ENGINE_URL,
            transport=DialTransport(self._dial),
            headers={
                "X-Session-API-Key": self._session_key,
                "Connection": "close",
                "Accept-Encoding": "identity",
            },
            timeout=read,
            trust_env=False,
            follow_redirects=False,
        )

    def _call(
        self,
        method: str,
        path: str,
        *,
        read: float = READ_SECONDS,
        repeatable: bool = True,
        **request: Any,
    ) -> bytes:
        try:
            return self._once(method, path, read, request)
        except (httpx2.NetworkError, httpx2.RemoteProtocolError) as error:
            # Retry after a reset, but not after a refused connection, which means that the engine is down.
            if not repeatable or isinstance(error, httpx2.ConnectError):
                raise _unreachable(error) from error
        except httpx2.RequestError as error:
            raise _unreachable(error) from error
        try:
            return self._once(method, path, read, request)
        except httpx2.RequestError as error:
            raise _unreachable(error, maybe_done=True) from error

    def _once(self, method: str, path: str, read: float, request: dict[str, Any]) -> bytes:
        with self._client(read) as client, client.stream(method, path, **request) as response:
            body, deadline = bytearray(), time.monotonic() + read + 60
            for chunk in response.iter_bytes():
                body += chunk
                # The read timeout of the HTTP client restarts with every byte.
                if time.monotonic() > deadline:
                    raise EngineTimedOut("the response did not end in time", maybe_done=True)
                if len(body) > BODY_MAX_BYTES:
                    raise EngineRefused(response.status_code, "the response is too large")
            _raise_for_status(response.status_code, bytes(body))
            return bytes(body)

    def _json(self, method: str, path: str, **request: Any) -> Any:
        body = self._call(method, path, **request)
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise EngineRefused(200, "the response is not JSON") from error

    def _object(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        body = self._json(method, path, **request)
        if not isinstance(body, dict):
            raise EngineRefused(200, "the response is not a JSON object")
        return body

    def _stream(self, path: str, query: dict[str, Any]) -> Download:
        client = self._client(120.0)
        try:
            response = client.send(client.build_request("GET", path, params=query), stream=True)
            if response.status_code >= 400:
                with contextlib.closing(response):
                    _raise_for_status(response.status_code, response.read()[:10_000])
        except httpx2.RequestError as error:
            client.close()
            raise _unreachable(error) from error
        except EngineRefused:
            client.close()
            raise
        return Download(response, client)


def _conversation(conversation_id: UUID) -> str:
    return f"/api/conversations/{conversation_id}"


def _unreachable(error: Exception, *, maybe_done: bool | None = None) -> EngineUnreachable:
    # These errors occur before the request is sent.
    never_sent = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
    kind = EngineTimedOut if isinstance(error, httpx2.TimeoutException) else EngineUnreachable
    return kind(
        str(error) or type(error).__name__,
        maybe_done=not never_sent if maybe_done is None else maybe_done,
    )


def _raise_for_status(status: int, body: bytes) -> None:
    if status < 300:
        return
    detail = _detail(body)
    if status == 404:
        raise EngineMissing(detail)
    raise EngineRefused(status, detail)


def _detail(body: bytes) -> str:
    """Return the text of an error. For a status of 5xx, the engine sends the exception's text in ``exception``."""
    try:
        fields = json.loads(body)
        text = fields.get("exception") or fields.get("detail")
        return (text if isinstance(text, str) else json.dumps(text))[:2000]
    except (ValueError, AttributeError, RecursionError):
        return body[:500].decode("utf-8", "replace")
