"""The Model Context Protocol (MCP): this server's tools, served by the MCP SDK."""

import logging
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

from integrations.mcp.tools import TOOLS, Caller, call
from lib.problems import Problem

log = logging.getLogger(__name__)
Answer = tuple[int, list[tuple[str, str]], bytes]
"""The status, headers and body of a response."""


def handle_request(caller: Caller, scope: dict[str, Any], body: bytes) -> Answer:
    """Return the response to a caller's request: its status, headers and body. ``scope`` is an ASGI scope."""
    return async_to_sync(_handle)(build_server(caller), scope, body)


def build_server(caller: Caller) -> Server[Any, Any]:
    """Return an MCP server of the SDK with tools that act on behalf of the caller."""

    async def list_tools() -> list[types.Tool]:
        return [
            types.Tool(name=tool.name, description=tool.description, inputSchema=tool.schema)
            for tool in TOOLS.values()
        ]

    async def call_tool(name: str, arguments: dict[str, Any]) -> Any:
        try:
            return await sync_to_async(call)(caller, name, arguments)
        except Problem as problem:
            return _failed(problem.detail)
        # Otherwise the SDK would send the exception's text to the client, which may contain SQL and data.
        except Exception:
            log.exception("the tool %s failed", name[:60])
            return _failed("An unexpected error occurred on the server. Try again later.")

    server: Server[Any, Any] = Server("agent-server", version="1")
    server.list_tools()(list_tools)
    server.call_tool()(call_tool)
    return server


def _failed(sentence: str) -> types.CallToolResult:
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=sentence)], isError=True
    )


async def _handle(server: Server[Any, Any], scope: dict[str, Any], body: bytes) -> Answer:
    """Handle one request with a new session manager of the SDK.

    A session manager runs only once, and this server keeps no MCP sessions, so each request gets its own. ``receive``
    and ``send`` are the callables of ASGI: they pass the body in and collect the response.
    """
    sessions = StreamableHTTPSessionManager(server, json_response=True, stateless=True)
    # The status stays 500 if the SDK sends no response.
    status, headers, pieces, is_read = 500, [], [], False

    async def receive() -> dict[str, Any]:
        nonlocal is_read
        # In JSON mode the SDK reads the body once, and again only after the response.
        if is_read:
            return {"type": "http.disconnect"}
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status = message["status"]
            headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in message["headers"]]
        else:
            pieces.append(message.get("body", b""))

    async with sessions.run():
        await sessions.handle_request(scope, receive, send)
    return status, headers, b"".join(pieces)
