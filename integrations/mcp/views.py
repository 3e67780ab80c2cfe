"""``POST /mcp``: one request of the protocol, one JSON answer; no session is kept.

A Django view and not an application of its own beside Django: so that authentication, limits, request ids,
maintenance and the access log are those of every other address. The protocol itself is the MCP SDK's.
"""

import logging
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema, extend_schema_view
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts.active import active_organization
from accounts.authentication import AccessTokenAuthentication, ApiKeyAuthentication
from conversations.authentication import ConversationKeyAuthentication
from integrations.mcp.tools import TOOLS, Caller, call
from openhands_site.lib.problems import Problem

log = logging.getLogger(__name__)
CONVERSATION = "X-OpenHands-ServerConversation-ID"


class NotSpoken(Problem):
    """Not a message of the protocol."""

    code = "not-mcp"
    sentence = "Send a JSON-RPC message as application/json, and accept application/json and text/event-stream."


class ForeignOrigin(Problem):
    """A page of another site calls; the protocol asks servers to refuse that (DNS rebinding)."""

    status = 403
    code = "foreign-origin"
    sentence = "Pages of this origin may not call here."


class McpView(APIView):
    """The protocol's only address. Each tool asks for its own permission."""

    permission = "conversations.view"
    authentication_classes = (
        ConversationKeyAuthentication,
        AccessTokenAuthentication,
        ApiKeyAuthentication,
    )

    @extend_schema(
        operation_id="mcp",
        tags=["mcp"],
        request=OpenApiTypes.OBJECT,
        responses={
            200: OpenApiTypes.OBJECT,
            202: None,
            400: OpenApiTypes.OBJECT,
            406: OpenApiTypes.OBJECT,
        },
    )
    def post(self, request: Request) -> HttpResponse:
        """A JSON-RPC request or notification."""
        origin = request.headers.get("Origin")
        if origin and origin not in {*settings.ALLOWED_ORIGINS, *settings.CORS_ALLOWED_ORIGINS}:
            raise ForeignOrigin
        caller = Caller(
            request.user, active_organization(request), request.headers.get(CONVERSATION, "")
        )
        raw: Any = request._request  # noqa: SLF001 - the bytes, which the SDK parses
        headers = [
            (name.lower().encode(), value.encode("latin-1", "replace"))
            for name, value in request.headers.items()
        ]
        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": request.path}
        scope |= {"headers": headers, "query_string": b"", "http_version": "1.1", "scheme": "http"}
        status, answered, body = async_to_sync(_answer)(server_for(caller), scope, raw.body)
        if status >= 400 and "content-type" not in {name.lower() for name, _ in answered}:
            raise NotSpoken  # the SDK answers some of these with a bare word
        response = HttpResponse(body, status=status)
        del response["Content-Type"]
        for name, value in answered:
            if name != "content-length":
                response[name] = value
        return response


@extend_schema_view(post=extend_schema(operation_id="compat_mcp"))
class McpAliasView(McpView):
    """The address that existing clients have."""


def server_for(caller: Caller) -> Server[Any, Any]:
    """The SDK's server with our tools, on behalf of one caller."""
    server: Server[Any, Any] = Server("agent-server", version="1")

    @server.list_tools()
    async def list_tools() -> list[types.Tool]:
        return [
            types.Tool(name=tool.name, description=tool.description, inputSchema=tool.schema)
            for tool in TOOLS.values()
        ]

    @server.call_tool()
    async def call_tool(name: str, arguments: dict[str, Any]) -> Any:
        try:
            return await sync_to_async(call)(caller, name, arguments)
        except Problem as refusal:
            return _failed(refusal.detail)
        except (
            Exception
        ):  # the SDK would tell the caller what it says: statements, addresses, values
            log.exception("the tool %s failed", name[:60])
            return _failed("The server could not do this. Try again.")

    return server


def _failed(sentence: str) -> types.CallToolResult:
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=sentence)], isError=True
    )


async def _answer(
    server: Server[Any, Any], scope: dict[str, Any], body: bytes
) -> tuple[int, list[tuple[str, str]], bytes]:
    """One request through the SDK's transport, which is made for it and ends with it."""
    manager = StreamableHTTPSessionManager(server, json_response=True, stateless=True)
    status, headers, pieces, is_read = 500, [], [], False

    async def receive() -> dict[str, Any]:
        nonlocal is_read
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

    async with manager.run():
        await manager.handle_request(scope, receive, send)
    return status, headers, b"".join(pieces)
