"""``POST /mcp``: one request of the protocol, one JSON answer; no session is kept.

A Django view and not an application of its own beside Django: so that authentication, limits, request ids,
maintenance and the access log are those of every other address. The protocol itself is the MCP SDK's.
"""

from typing import Any

from django.conf import settings
from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts.active import active_organization
from accounts.sign_in.authentication import AccessTokenAuthentication, ApiKeyAuthentication
from conversations.api.authentication import ConversationKeyAuthentication
from integrations.mcp.tools import Caller
from lib.problems import Problem
from lib.routes import RouteFacts

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


@RouteFacts(streams=True)
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
        # Not above: the SDK is a third of what a web process imports, and most never need it.
        from integrations.mcp.protocol import answered_by_tools

        status, answered, body = answered_by_tools(caller, scope, raw.body)
        if status >= 400 and "content-type" not in {name.lower() for name, _ in answered}:
            raise NotSpoken  # the SDK answers some of these with a bare word
        response = HttpResponse(body, status=status)
        del response["Content-Type"]
        for name, value in answered:
            if name != "content-length":
                response[name] = value
        return response


@RouteFacts(streams=True)
@extend_schema_view(post=extend_schema(operation_id="compat_mcp"))
class McpAliasView(McpView):
    """The address that existing clients have."""
