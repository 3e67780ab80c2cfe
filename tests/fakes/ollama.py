"""A stand-in for Ollama: its own routes in the shapes of its ``docs/openapi.yaml``, and its OpenAI-compatible API.

Chats follow ``billing.gateway.script``, as those of ``ScriptedLLM`` do. Only a model that was called is in ``/api/ps``.
"""

import json
from typing import Any

from tests.fakes.scripted_llm import ScriptedLLM, ScriptedLLMHandler

MODIFIED = "2026-11-03T10:21:04.415822361+01:00"


class FakeOllama(ScriptedLLM):
    """The server. ``library`` contains the rows of ``/api/tags``, and ``paths`` the requested paths of GET requests.

    ``context_length`` is the context with which the server loads models (``OLLAMA_CONTEXT_LENGTH``).
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, *, context_length: int = 4096
    ) -> None:
        super().__init__(host, port, handler=_Handler)
        self.context_length = context_length
        self.version = "0.12.6"
        self.paths: list[str] = []
        self.library = [
            model_row("qwen3-coder:30b", "qwen3moe", "30.5B", 18_556_700_761),
            model_row("nomic-embed-text:latest", "nomic-bert", "137M", 274_302_450),
        ]

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def loaded(self) -> list[dict[str, Any]]:
        called = {request["body"].get("model") for request in self.requests}
        more = {"context_length": self.context_length, "size_vram": 0}
        return [row | more for row in self.library if row["name"] in called]


def model_row(name: str, family: str, parameters: str, size: int) -> dict[str, Any]:
    """Return a row of ``/api/tags``."""
    return {
        "name": name,
        "model": name,
        "modified_at": MODIFIED,
        "size": size,
        "digest": "06c1097efce0431c2045fe7b2e5108366e43bee1b4603a7aded8f21689e90bca",
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": family,
            "families": [family],
            "parameter_size": parameters,
            "quantization_level": "Q4_K_M",
        },
    }


class _Handler(ScriptedLLMHandler):
    server: FakeOllama

    def do_GET(self) -> None:  # noqa: N802 - the base class names it so
        self.server.paths.append(self.path)
        listed = [
            {"id": row["name"], "object": "model", "created": 1762161664, "owned_by": "library"}
            for row in self.server.library
        ]
        answers: dict[str, Any] = {
            "/api/version": {"version": self.server.version},
            "/api/tags": {"models": self.server.library},
            "/api/ps": {"models": self.server.loaded()},
            # Ollama encodes an empty Go slice as null.
            "/v1/models": {"object": "list", "data": listed or None},
        }
        if self.path == "/":
            self._send(200, "text/plain; charset=utf-8", b"Ollama is running")
        elif self.path in answers:
            self._send_json(200, answers[self.path])
        else:
            self._send(404, "text/plain", b"404 page not found")

    def do_POST(self) -> None:  # noqa: N802 - the base class names it so
        length = int(self.headers.get("Content-Length", 0))
        raw = self.rfile.read(length)
        body = json.loads(raw)
        row = next((r for r in self.server.library if r["name"] == body.get("model")), None)
        if row is None:
            message = f"model '{body.get('model')}' not found"
            self._send_json(
                404,
                {
                    "error": {
                        "message": message,
                        "type": "not_found_error",
                        "param": None,
                        "code": None,
                    }
                },
            )
            return
        if "bert" in row["details"]["family"]:
            message = f'"{row["name"]}" does not support chat'
            self._send_json(400, {"error": {"message": message, "type": "invalid_request_error"}})
            return
        self.answer_chat(raw)
