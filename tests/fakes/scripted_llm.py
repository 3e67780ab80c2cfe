"""A fake model provider: an OpenAI-compatible HTTP server that follows ``billing.gateway.script``."""

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from billing.gateway import script
from billing.gateway.script import Json


class ScriptedLLM(ThreadingHTTPServer):
    """The server. As a context manager it serves in a background thread.

    ``requests`` is the log of requests. ``models`` is the status and the body of the list of models. If ``raw`` (status,
    content type, body) is set, it replaces every response. ``answer`` chooses such a response for a request; if it
    returns None, the request is answered as usual.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        api_key: str | None = None,
        chunk_delay: float = 0.0,
        handler: type[BaseHTTPRequestHandler] | None = None,
    ) -> None:
        super().__init__((host, port), handler or ScriptedLLMHandler)
        self.api_key = api_key
        self.chunk_delay = chunk_delay
        self.raw: tuple[int, str, bytes] | None = None
        self.answer: Callable[[Json], tuple[int, str, bytes] | None] | None = None
        self.extra_headers: dict[str, str] = {}
        model = {"id": "scripted", "object": "model", "owned_by": "scripted"}
        self.models: tuple[int, Any] = (200, {"object": "list", "data": [model]})
        self.requests: deque[Json] = deque(maxlen=1000)
        self._failures: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def base_url(self) -> str:
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}/v1"

    def should_fail(self, failure: script.Failure, key: str) -> bool:
        with self._lock:
            self._failures[key] += 1
            return failure.times is None or self._failures[key] <= failure.times

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: some tests close the connection on purpose."""

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class ScriptedLLMHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedLLM

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._send_json(*self.server.models)
        else:
            self._send_error(404, "no such path")

    def do_POST(self) -> None:
        self.answer_chat(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def answer_chat(self, raw: bytes) -> None:
        """Answer a POST request with this body as the script says."""
        if self.path != "/v1/chat/completions":
            self._send_error(404, "no such path")
            return
        key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.server.api_key not in (None, key):
            self._send_error(401, f"Incorrect API key provided: {key}")
            return
        try:
            request: Json = json.loads(raw)
            step = script.choose_step(request)
            identity = script.fingerprint(request)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            self._send_error(400, f"bad request: {error!r}")
            return
        failure = step.failure
        if failure and not self.server.should_fail(failure, identity):
            failure = None
        self._note(request, step, key=key, failed=failure is not None)
        time.sleep(step.delay or 0)
        chosen = self.server.answer(request) if self.server.answer else None
        if answer := chosen or self.server.raw:
            self._send(*answer)
        elif failure and failure.status == 0:
            self.close_connection = True
        elif failure:
            self._send_error(failure.status, failure.message)
        elif request.get("stream"):
            options = request.get("stream_options") or {}
            body = script.build_completion(step, request)
            chunks = script.iter_chunks(body, include_usage=bool(options.get("include_usage")))
            pause = self.server.chunk_delay if step.chunk_delay is None else step.chunk_delay
            self._send_stream(chunks, pause)
        else:
            self._send_json(200, script.build_completion(step, request))

    def _note(self, request: Json, step: script.Step, *, key: str, failed: bool) -> None:
        self.server.requests.append(
            {
                "body": request,
                "host": self.headers.get("Host"),
                "api_key": key,
                "text": step.text,
                "calls": [name for name, _ in step.calls],
                "failed": failed,
            }
        )

    def _send_stream(self, chunks: Iterator[Json], pause: float) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for chunk in chunks:
                self._write_chunk(script.encode_event(chunk))
                time.sleep(pause)
            self._write_chunk(script.STREAM_END)
            self._write_chunk(b"")
        except (
            OSError
        ):  # the client has disconnected, for example because the agent was interrupted
            self.server.requests[-1]["cut"] = True
            self.close_connection = True

    def _write_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _send_error(self, status: int, message: str) -> None:
        self._send_json(status, script.build_error(status, message))

    def _send_json(self, status: int, body: Json) -> None:
        self._send(status, "application/json", json.dumps(body).encode())

    def _send(self, status: int, content_type: str, data: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(data)))
            for name, value in self.server.extra_headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the client has disconnected
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Log nothing: ``requests`` is the log."""
