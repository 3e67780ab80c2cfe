"""A valid request for each operation of the OpenAPI document, and requests with one odd part in it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from openhands_site import openapi
from tests import odd_values as odd
from tests.odd_requests import Odd, rotate

JSON, MULTIPART = "application/json", f"multipart/form-data; boundary={odd.BOUNDARY}"
HINTS: dict[str, Any] = {
    "redirect_url": "/settings", "title": "A title", "name": "NAME", "email": "new@example.com", "host": "x.example", "hosts": ["x.example"],
    "tags": ["a"], "scopes": ["account.view"], "allowed_networks": ["10.0.0.0/8"], "path": ".openhands/microagents/a.md", "file": "a.txt", "repository": "octo/private",
    "base_url": "https://models.example.com/v1", "llm_base_url": "https://models.example.com/v1", "model": "m", "days": 3,
    "overlap_hours": 1, "max_uses": 1, "limit": 5, "expires_at": "2999-01-01T00:00:00Z", "since": "2020-01-01T00:00:00Z",
    "until": "2020-06-01T00:00:00Z", "before": None, "asked_seq": 1, "through_seq": 1, "seq": 1, "start_id": 0, "end_id": 5, "event_id": 1, "after": 0,
    "wait": 0, "rating": 5, "version": 0, "text": "Hello", "message": "Hello", "images": [], "image_urls": [], "replay_json": None,
    "suggested_task": None, "create_microagent": None, "permission": "files.view", "action": "api_key.created", "role": "viewer",
    "metadata": {"a": {"b": ["c"]}}, "policy": {"kind": "AlwaysConfirm"}, "security_analyzer": "llm", "children": "revoke",
    "source_branch": "feature", "target_branch": "main", "labels": ["a"], "cursor": "", "page_id": "", "host_name": "", "language": "de",
    "max_iterations": 7, "condenser_max_size": 70, "git_user_email": "a@example.com", "remote_runtime_resource_factor": 1,
    "max_budget_per_task": 1.5, "max_budget_per_task_micros": 1_500_000, "enforced": ["max_iterations"], "mcp_config": {
        "sse_servers": [{"url": "https://mcp.example.com/sse", "api_key": "k", "timeout": 3}, "https://a.example"],
        "shttp_servers": [{"url": "https://mcp.example.com/http", "api_key": "k", "timeout": 3}],
        "stdio_servers": [{"name": "files", "command": "npx", "args": ["-y"], "env": {"A": "b"}}]},
    "provider_tokens": {"github": {"token": "ghp_1", "host": ""}}, "scope": "account.view", "kind": "MessageEvent", "device_code": "x",
    "providers_set": ["github"], "installation": "1", "sandbox_id": None, "processors": [], "parent_conversation_id": None,
    "llm_model": None, "selected_repository": None, "selected_branch": None, "git_provider": None, "pr_number": [], "trigger": "gui",
    "agent_type": None, "visibility": "organization", "sandbox_spec_id": "agent-server", "conversation_trigger": "gui", "system_message_suffix": None, "token": "ghp_1", "actor": "alice",
    "request_id": "x", "subject": "x", "preset": None, "config": {"a": "b"}, "branch": "main", "full_name": "octo/private",
}  # fmt: skip
"""Valid values of parameters and fields by name. Other fields get a value of their type. None omits the field."""
BODIES: dict[str, Any] = {
    "POST /api/v1/conversations": {"repository": {"provider": "github", "full_name": "octo/private", "branch": "main"}, "message_id": "01a20501-e2e2-732b-8f74-636424f8c9f2"},
    "POST /api/v1/conversations/{id}/messages": {"images": ["data:image/png;base64,iVBORw0KGgo="], "message_id": "01a20501-e2e2-732b-8f74-636424f8c9f2"},
    "POST /api/v1/secrets": {"scope": "organization"},
    "POST /api/v1/app-conversations": {"conversation_id": None, "initial_message": {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "image", "image_urls": ["data:image/png;base64,iVBORw0KGgo="]}], "run": True}},
    "POST /api/v1/app-conversations/stream-start": {"conversation_id": None},
    "POST /api/conversations": {"mcp_config": None},
    "POST /api/v1/conversations/{id}/egress/rules": {"host": "x.example"},
    "POST /api/v1/auth/sign-in": {"email": "signer@example.com", "password": "correct horse battery", "code": None},
    "POST /api/conversations/{id}/security_analyzer": {"security_analyzer": {"kind": "LLMSecurityAnalyzer"}},
    "POST /api/conversations/{id}/events": {"action": "message", "args": {"content": "Hello", "image_urls": []}},
    "POST /api/conversations/{id}/start": {"providers_set": []},
    "POST /api/v1/webhooks/{sandbox_id}/conversations": {"id": "x", "execution_status": "idle"},
    "POST /api/v1/webhooks/{sandbox_id}/events/{conversation_id}": {"id": "x", "kind": "MessageEvent"},
    "PUT /api/v1/egress-policy": {"profile": "list"},
    "POST /api/secrets": {"name": "NEW"},
    "POST /mcp": {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "create_pr", "arguments": {"repo_name": "octo/private", "source_branch": "feature", "target_branch": "main", "title": "A title", "body": "b", "draft": True, "labels": ["a"]}}},
    "POST /mcp/mcp": {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "a", "version": "1"}}},
}  # fmt: skip
"""Valid fields of operations, in place of those by name."""
HEADERS: dict[str, tuple[tuple[str, str], ...]] = {
    "/mcp": (("Accept", "application/json, text/event-stream"),),
}
"""Headers that an operation needs, by the beginning of its path."""
MORE_QUERY: dict[str, dict[str, str]] = {
    "GET /api/user/installations": {"provider": "github"},
    "GET /api/user/repositories": {"sort": "pushed", "page": "1", "per_page": "5", "installation_id": "1", "selected_provider": "github"},
    "GET /api/user/search/repositories": {"query": "octo", "per_page": "5", "sort": "stars", "order": "desc", "selected_provider": "github"},
    "GET /api/user/repository/branches": {"repository": "octo/private", "page": "1", "per_page": "5"},
    "GET /api/user/search/branches": {"repository": "octo/private", "query": "m", "per_page": "5", "selected_provider": "github"},
    "GET /api/user/repository/{name}/microagents/content": {"file_path": ".openhands/microagents/a.md"},
    "GET /api/v1/users/me": {"a": "b"},
}  # fmt: skip
"""Query parameters that the document does not contain."""


@dataclass
class Operation:
    """An operation with a valid request. ``paths``, ``query`` and ``body`` contain its parts by name."""

    method: str
    path: str
    paths: dict[str, str]
    query: dict[str, Any]
    body: Any = None
    files: list[str] = field(default_factory=list)
    content_type: str = JSON
    raw: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        return f"{self.method} {self.path}"

    def write(self, name: str, *, paths: dict[str, str] | None = None, query: str | None = None, body: bytes | None = None, **fields: Any) -> Odd:  # fmt: skip
        """Return the request with some parts replaced. Values of paths and the query are percent-encoded."""
        path = self.path
        for key, value in ({k: odd.to_query(v) for k, v in self.paths.items()} | (paths or {})).items():  # fmt: skip
            path = path.replace(f"{{{key}}}", value)
        text = urlencode(self.query, doseq=True, quote_via=quote) if query is None else query
        fields = {"method": self.method, "content_type": self.content_type} | fields
        fields["headers"] = (*self.headers, *fields.get("headers", ()))
        if body is None:
            body = self.write_body()
        return Odd("REST", path=f"{path}?{text}" if text else path, name=name, body=body, **fields)

    def write_body(self) -> bytes:
        if self.files:
            return (
                b"".join(odd.write_file_part(field, "a.txt") for field in self.files)
                + f"--{odd.BOUNDARY}--\r\n".encode()
            )
        return self.raw if self.body is None else json.dumps(self.body).encode()

    def list_odd(self, number: int, values: int) -> Iterator[Odd]:
        """Yield the request with each part replaced by ``values`` odd values (-1: all), and with odd whole parts."""
        yield from self.list_odd_urls(number, values)
        yield from self.list_odd_bodies(number, values)
        few = values if values < 0 else max(1, values // 2)
        for name, value in rotate(list(odd.HEADERS), number, few):
            yield self.write(f"{name}: {value}", headers=((name, value),))
        for method in rotate(list(odd.METHODS), number, few):
            yield self.write(f"method {method}", method=method)

    def list_odd_urls(self, number: int, values: int) -> Iterator[Odd]:
        escapes = [(name, value, "escape") for name, value in odd.ESCAPES.items()]
        chosen = choose(odd.texts(), values)
        whole = [(name, odd.to_query(value), "text") for name, value in chosen.items()]
        candidates = [*whole, *escapes]
        for at, key in enumerate(self.paths):
            for name, value, _ in rotate(candidates, number + at, values):
                if len(value) < 20_000:
                    yield self.write(f"{key} is {name}", paths={key: value or "%20"})
        for at, key in enumerate(self.query):
            others = urlencode(
                {k: v for k, v in self.query.items() if k != key}, doseq=True, quote_via=quote
            )
            for name, value, _ in rotate(candidates, number + at, values):
                query = f"{others}&{quote(key)}={value}"
                yield self.write(f"{key} is {name}", query=query)
            yield self.write(f"{key} twice", query=f"{key}=1&{key}=abc&{key}[]=2")
            yield self.write(f"{key} alone", query=key)
        few = values if values < 0 else max(1, values // 4)
        for query in rotate(list(odd.QUERIES), number, few):
            yield self.write(f"query {query[:20]}", query=query)

    def list_odd_bodies(self, number: int, values: int) -> Iterator[Odd]:
        if self.method in ("GET", "HEAD"):
            return
        few = values if values < 0 else max(1, values // 2)
        texts = list(choose(odd.json_texts(), values).items())
        if self.body is not None:
            for at, (where, marked) in enumerate(odd.replace_each(self.body)):
                for name, value in rotate(texts, number + at, values):
                    yield self.write(f"{where} is {name}", body=odd.write_json(marked, value))
            for where, raw in rotate(list(odd.with_odd_keys(self.body)), number, few):
                yield self.write(where, body=raw)
        for name, raw in rotate(list(odd.BODIES.items()), number, few):
            yield self.write(f"body {name}", body=raw)
            for kind in rotate(list(odd.CONTENT_TYPES), number, max(-1, few // 4)):
                yield self.write(f"body {name} as {kind}", body=raw, content_type=kind)
        for name, raw in rotate(
            list(odd.multiparts((self.files or ["file"])[0]).items()), number, few * 3 if self.files else few // 2
        ):  # fmt: skip
            yield self.write(name, body=raw, content_type=MULTIPART)


def choose(values: dict[str, str], count: int) -> dict[str, str]:
    """Return the telling values if only some are sent, otherwise all."""
    return (
        {name: v for name, v in values.items() if odd.is_telling(name)}
        if 0 <= count <= 8
        else values
    )


def operations(own: dict[str, str]) -> list[Operation]:
    """Return all operations of the document. ``own`` contains the values of parameters by name or kind of row."""
    document = orjson.loads(openapi.document("json"))
    found = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            found.append(_build(document, path, method.upper(), operation, own))
    return found


def _build(document: Any, path: str, method: str, operation: Any, own: dict[str, str]) -> Operation:
    kind = path.removeprefix("/api/").removeprefix("v1/").partition("/")[0]
    parameters = operation.get("parameters", [])
    paths = {
        p["name"]: own.get(kind, own["id"])
        if p["name"] == "id"
        else own.get(f"{kind}/{p['name']}") or own[p["name"]]
        for p in parameters
        if p["in"] == "path"
    }
    query = dict(MORE_QUERY.get(f"{method} {path}", {}))
    for p in parameters:
        if p["in"] == "query":
            value = _find_valid(document, p["name"], p["schema"], own)
            if value not in (None, ""):
                query[p["name"]] = str(value).lower() if isinstance(value, bool) else value
    headers = tuple(pair for start, pairs in HEADERS.items() if path.startswith(start) for pair in pairs)  # fmt: skip
    result = Operation(method, path, paths, query, headers=headers)
    for content_type, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = _resolve(document, content["schema"])
        label = f"{method} {path}"
        if content_type.startswith("multipart"):
            result.files = [name for name in schema["properties"] if "file" in name]
            result.content_type = MULTIPART
        elif content_type == "application/octet-stream":
            result.raw, result.content_type = b"content", content_type
        else:
            body = _find_valid(document, "", schema, own)
            body = (body if isinstance(body, dict) else {}) | BODIES.get(label, {})
            result.body = {key: value for key, value in body.items() if value is not None}
    return result


def _resolve(document: Any, schema: Any) -> Any:
    while True:
        if "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        elif choices := schema.get("allOf") or schema.get("oneOf") or schema.get("anyOf"):
            schema = choices[0]
        else:
            return schema


def _find_valid(document: Any, name: str, schema: Any, own: dict[str, str]) -> Any:
    schema = _resolve(document, schema)
    if name in HINTS:
        hint = HINTS[name]
        fits = hint in schema.get("enum", (hint,))
        fits &= schema.get("type") != "object" or isinstance(hint, dict)
        if hint is None or fits:
            return hint
    if "enum" in schema:
        return next((choice for choice in schema["enum"] if choice), None)
    if schema.get("format") == "uuid" or name in ("id", "ids", "conversation_id"):
        value = own.get(name, own["id"])
        return [value] if schema.get("type") == "array" else value
    match schema.get("type"):
        case "object":
            fields = {
                key: _find_valid(document, key, inner, own)
                for key, inner in schema.get("properties", {}).items()
            }
            return {key: value for key, value in fields.items() if value is not None}
        case "array":
            value = _find_valid(document, "", schema["items"], own)
            return [] if value is None else [value]
        case "integer":
            return max(1, schema.get("minimum", 1))
        case "number":
            return 1.5
        case "boolean":
            return True
        case "string" if schema.get("format") == "date-time":
            return "2020-01-01T00:00:00Z"
    return "x"
