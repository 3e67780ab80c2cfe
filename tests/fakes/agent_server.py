"""A fake of the agent engine's HTTP API, for tests of our services.

``tests/flows`` runs these services against the real engine. Where the two differ, the fake is changed.
"""

import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from uuid import uuid4

from django.conf import settings

from conversations.sandboxes.egress.policy import Policy
from conversations.sandboxes.provider import (
    ENGINE_PORT,
    Handle,
    Isolation,
    Observed,
    SandboxSpec,
    State,
    Usage,
)
from tests.fakes.dials import build_dial

_PATH = re.compile(r"/api/conversations/([0-9a-f-]+)(/.*)?")


class FakeAgentServer(ThreadingHTTPServer):
    """An engine with conversations and their logs of events. As a context manager it serves in a thread."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.conversations: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, list[dict[str, Any]]] = {}
        self.calls: list[tuple[str, str, Any]] = []
        self.answers: dict[str, tuple[int, Any]] = {}
        """Status and body to send instead of the normal response, by ``"METHOD suffix"``."""
        self.drop_after: set[str] = set()
        """Requests (``"METHOD suffix"``) that are executed and whose connection is closed without a response."""

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def log_event(self, conversation_id: str, **fields: Any) -> dict[str, Any]:
        event = {"id": str(uuid4()), "timestamp": "2026-11-22T10:00:00.000001"} | fields
        self.logs[conversation_id].append(event)
        return event

    def user_texts(self, conversation_id: str) -> list[str]:
        """Return the texts of the messages that the agent received."""
        events = self.logs.get(conversation_id, [])
        return [
            e["llm_message"]["content"][0]["text"] for e in events if e["kind"] == "MessageEvent"
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeAgentServer

    def do_GET(self) -> None:
        self._dispatch("GET")

    def do_POST(self) -> None:
        self._dispatch("POST")

    def do_PATCH(self) -> None:
        self._dispatch("PATCH")

    def do_DELETE(self) -> None:
        self._dispatch("DELETE")

    def _dispatch(self, method: str) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"null")
        path, _, query = self.path.partition("?")
        match = _PATH.fullmatch(path)
        suffix = (match[2] or "") if match else path
        self.server.calls.append((method, suffix, body))
        name = f"{method} {suffix}"
        if name in self.server.answers:
            return self._answer(*self.server.answers[name])
        status, reply = self._act(method, suffix, match[1] if match else "", body, query)
        if name in self.server.drop_after:
            self.close_connection = True
            return None
        return self._answer(status, reply)

    def _act(self, method: str, suffix: str, key: str, body: Any, query: str) -> tuple[int, Any]:
        server = self.server
        if suffix in ("/ready", "/server_info"):
            return 200, {"status": "ready", "version": "1.58.2"}
        if (method, suffix) == ("POST", "/api/conversations"):
            key = body["conversation_id"]
            is_new = key not in server.conversations
            info = {"id": key, "execution_status": "idle", "tags": {}, "leaf_event_id": "leaf"}
            server.conversations.setdefault(key, info)
            server.logs.setdefault(key, [])
            return (201 if is_new else 200), server.conversations[key]
        info = server.conversations.get(key)
        if info is None:
            return 404, {"detail": "Not found"}
        match method, suffix:
            case ("GET" | "PATCH", ""):
                return 200, info
            case "POST", "/events":
                message = {"role": "user", "content": body["content"]}
                server.log_event(key, kind="MessageEvent", source="user", llm_message=message)
                return 200, {"success": True}
            case "GET", "/events/search":
                return 200, {"items": server.logs[key], "next_page_id": None}
            case "DELETE", "":
                del server.conversations[key]
                del server.logs[key]
            case "POST", "/run":
                info["execution_status"] = "running"
        return 200, {"success": True}

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


class FakeProvider:
    """A sandbox provider in which every sandbox is one ``FakeAgentServer``. ``state`` is their state."""

    def __init__(self, server: FakeAgentServer) -> None:
        self.server = server
        self.isolation = Isolation("Not isolated", "It is a fake.", is_isolated=False)
        self.usage: Usage | None = None
        self.state = State.MISSING
        self.starts = 0
        self.specs: list[SandboxSpec] = []
        self.destroyed = 0
        self.policies: list[Policy] = []
        """The network rules that were set after a start."""
        self.decisions: list[dict[str, Any]] = []
        """The decision log of the sandbox."""
        self.last_decisions: list[dict[str, Any]] = []
        """The decisions that the proxy writes when the sandbox is stopped."""

    def start(self, spec: SandboxSpec) -> Handle:
        self.specs.append(spec)
        self.starts += self.state != State.RUNNING
        self.state = State.RUNNING
        return {"sandbox": spec.sandbox_id.hex}

    def find(self, sandbox_id: Any) -> Handle:
        return {}

    def resume(self, spec: SandboxSpec, handle: Handle) -> Handle:
        return self.start(spec)

    def inspect(self, handle: Handle) -> Observed:
        return Observed(self.state, "/workspace", "killed by signal 9")

    def dial(self, handle: Handle, port: int = ENGINE_PORT) -> socket.socket:
        if self.state != State.RUNNING:
            raise ConnectionRefusedError("The sandbox does not run.")
        return build_dial(port or self.server.server_address[1])()

    def describe(self, handle: Handle | None = None) -> Isolation:
        return self.isolation

    def read_usage(self, handle: Handle) -> Usage | None:
        return self.usage

    def gateway_url(self) -> str:
        return settings.GATEWAY_URL

    def stop(self, handle: Handle, *, grace_seconds: float) -> None:
        self.state = State.STOPPED
        self.decisions += self.last_decisions
        self.last_decisions = []

    def explain_no_open_network(self) -> str:
        return "This provider has no open network."

    def set_policy(self, handle: Handle, policy: Policy) -> None:
        self.policies.append(policy)

    def read_decisions(self, handle: Handle, position: str) -> tuple[list[dict[str, Any]], str]:
        start = int(position or 0)
        decisions = self.decisions[start : start + 1_000]
        return decisions, str(start + len(decisions)) if decisions else position

    def destroy(self, handle: Handle) -> None:
        self.state, self.destroyed = State.MISSING, self.destroyed + 1
