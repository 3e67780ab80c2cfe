"""The MCP endpoint ``POST /mcp``: one request and one JSON response, without sessions.

The endpoint is a Django view and not a separate ASGI application, so that authentication, limits, request ids,
maintenance mode and the access log work as on all other routes. The MCP SDK implements the protocol.
"""

import json
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
from lib.api import strict_loads
from lib.problems import Problem
from lib.routes import RouteFacts

CONVERSATION = "X-OpenHands-ServerConversation-ID"
ACCEPT = "application/json, text/event-stream"
"""The ``Accept`` header that the MCP specification asks of clients."""


class NotMcp(Problem):
    """The request is not a valid MCP message."""

    code = "not-mcp"
    sentence = (
        "Send a JSON-RPC message with the content type application/json, and an Accept header with application/json "
        "and text/event-stream."
    )


class ForeignOrigin(Problem):
    """The request comes from a page of another origin.

    The MCP specification requires servers to reject these requests, against DNS rebinding attacks.
    """

    status = 403
    code = "foreign-origin"
    sentence = "Pages of this origin may not call this route. An operator can add the origin to CORS_ORIGINS."


def check_message(body: bytes) -> None:
    """Raise ``NotMcp`` with the reason if a body is not a JSON-RPC message in UTF-8.

    The SDK (mcp 1.x) fails on bytes that are not UTF-8 and on texts with lone surrogates, instead of refusing them.
    """
    try:
        message = strict_loads(body, max_depth=settings.JSON_MAX_DEPTH)
        json.dumps(message, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise NotMcp("The body is not UTF-8.") from error
    except UnicodeEncodeError as error:
        raise NotMcp(
            "The body contains half of a surrogate pair, which is not a character."
        ) from error
    except ValueError as error:
        raise NotMcp(f"The body is not valid JSON: {error}.") from error
    if not isinstance(message, dict):
        raise NotMcp(
            "The body must be one JSON-RPC message, a JSON object. Batches are not supported."
        )
    if message.get("jsonrpc") != "2.0":
        raise NotMcp('The field `jsonrpc` must be "2.0".')
    if not isinstance(message.get("method"), str) and not message.keys() & {"result", "error"}:
        raise NotMcp("The field `method` must be a text.")


@RouteFacts(streams=True)
class McpView(APIView):
    """The MCP endpoint. Every tool requires ``permission``, and each tool also checks its own permission."""

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
        """Handle a JSON-RPC request or notification of the Model Context Protocol."""
        origin = request.headers.get("Origin")
        if origin and origin not in {*settings.ALLOWED_ORIGINS, *settings.CORS_ALLOWED_ORIGINS}:
            raise ForeignOrigin
        caller = Caller(
            request.user, active_organization(request), request.headers.get(CONVERSATION, "")
        )
        raw: Any = request._request  # noqa: SLF001 - for the raw body, which the SDK parses
        check_message(raw.body)
        # DRF has negotiated already. The SDK (mcp 1.x) compares texts, and would refuse ``*/*`` and a missing header.
        sent = {name.lower(): value for name, value in request.headers.items()} | {"accept": ACCEPT}
        headers = [
            (name.encode(), value.encode("latin-1", "replace")) for name, value in sent.items()
        ]
        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": request.path}
        scope |= {"headers": headers, "query_string": b"", "http_version": "1.1", "scheme": "http"}
        # Not at the top: the SDK would be a third of the modules of a web process, and most processes never need it.
        from integrations.mcp.protocol import handle_request

        status, response_headers, body = handle_request(caller, scope, raw.body)
        if status >= 400 and "content-type" not in {name.lower() for name, _ in response_headers}:
            raise NotMcp  # the SDK returns plain text for some malformed requests
        response = HttpResponse(body, status=status)
        del response["Content-Type"]
        for name, value in response_headers:
            if name != "content-length":
                response[name] = value
        return response


@RouteFacts(streams=True)
@extend_schema_view(post=extend_schema(operation_id="compat_mcp"))
class McpAliasView(McpView):
    """The MCP endpoint at the URL that existing OpenHands clients use."""
