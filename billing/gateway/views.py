"""The views of the OpenAI-compatible model gateway.

Sandboxes call the gateway with the gateway token of their conversation, while the API key of the model server stays
here. Each call runs in its own task beside the request, so exactly one usage record is written for each call, even if
the caller disconnects.
"""

import asyncio
from typing import Any

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.views.decorators.csrf import csrf_exempt

from accounts.sign_in.authentication import read_bearer_token
from billing import services
from billing.gateway import script
from billing.gateway.call import Call, Relay, build_error_body, explain_database_error, threads
from billing.gateway.refusals import UpstreamRefused
from billing.models import GatewayToken, ModelAccess
from lib.api import strict_loads
from lib.routes import RouteFacts

Json = dict[str, Any]


@RouteFacts(streams=True, body_limit="GATEWAY_BODY_MAX_BYTES", cost="uncounted", called_by="agent")
@csrf_exempt
async def chat_completions(request: HttpRequest) -> HttpResponseBase:
    """Handle ``POST chat/completions``: forward the request to the user's model server, and record the usage."""
    if request.method != "POST":
        return _method_not_allowed("POST")
    # One byte more than allowed, to detect a body that is too large.
    raw = request.read(settings.GATEWAY_BODY_MAX_BYTES + 1)
    try:
        token, access = await threads.run(_authenticate, bearer=read_bearer_token(request.headers))
        body = await asyncio.to_thread(_parse_body, raw)
    except services.InvalidGatewayToken as error:
        return _unauthorized(error)
    except services.NoOrganizationModel as error:
        return _error(UpstreamRefused(error.status, error.detail, code="no_organization_model"))
    except UpstreamRefused as error:
        return _error(error)
    except DatabaseError as error:
        return _unavailable(error)
    if body.get("stream") is True and not isinstance(request, ASGIRequest):
        return _error(
            UpstreamRefused(
                501,
                "This server process cannot stream. Send the request without stream.",
                code="no_streaming",
            )
        )
    call = Call(token=token, access=access, body=body, size=len(raw))
    relay = Relay(call)
    try:
        failure = await call.wait_for_start()
    except asyncio.CancelledError:
        call.abandon()
        raise
    if failure:
        return _error(failure)
    if not call.is_stream:
        content = b"".join([piece async for piece in relay])
        return HttpResponse(content, content_type="application/json")
    headers = {"Cache-Control": "no-cache, no-store", "X-Accel-Buffering": "no"}
    return StreamingHttpResponse(relay, content_type="text/event-stream", headers=headers)


@RouteFacts(streams=True, body_limit="GATEWAY_BODY_MAX_BYTES", cost="uncounted", called_by="agent")
@csrf_exempt
async def models(request: HttpRequest) -> HttpResponse:
    """Handle ``GET models``: return a list with the only model that the token may use."""
    if request.method != "GET":
        return _method_not_allowed("GET")
    try:
        _, access = await threads.run(_authenticate, bearer=read_bearer_token(request.headers))
    except services.InvalidGatewayToken as error:
        return _unauthorized(error)
    except services.NoOrganizationModel as error:
        return _error(UpstreamRefused(error.status, error.detail, code="no_organization_model"))
    except DatabaseError as error:
        return _unavailable(error)
    model = {
        "id": access.model if access else services.DEMO_MODEL,
        "object": "model",
        "created": script.CREATED,
        "owned_by": "upstream" if access else services.DEMO_MODEL,
    }
    return JsonResponse({"object": "list", "data": [model]})


# --- Helpers ------------------------------------------------------------------------


def _authenticate(*, bearer: str) -> tuple[GatewayToken, ModelAccess | None]:
    token = services.authenticate_gateway_token(bearer)
    return token, services.get_token_access(token)


def _parse_body(raw: bytes) -> Json:
    limit = settings.GATEWAY_BODY_MAX_BYTES
    if len(raw) > limit:
        raise UpstreamRefused(
            413, f"The request body is larger than {limit} bytes.", code="request_too_large"
        )
    try:
        body = strict_loads(raw, max_depth=settings.JSON_MAX_DEPTH)
    except ValueError as error:
        raise UpstreamRefused(
            400,
            f"The request body cannot be parsed as JSON: {error}.",
            code="invalid_request_error",
        ) from error
    if (
        not isinstance(body, dict)
        or not isinstance(body.get("messages"), list)
        or not body["messages"]
    ):
        raise UpstreamRefused(
            400,
            "The request body must be an object with a non-empty list of messages.",
            code="invalid_request_error",
        )
    if not isinstance(body.get("stream"), bool | None):
        raise UpstreamRefused(400, "stream: must be true or false.", code="invalid_request_error")
    return body


def _error(failure: UpstreamRefused) -> HttpResponse:
    headers = {"Retry-After": failure.retry_after} if failure.retry_after else {}
    return JsonResponse(build_error_body(failure), status=failure.status, headers=headers)


def _unauthorized(error: services.InvalidGatewayToken) -> HttpResponse:
    body = script.build_error(
        401, error.detail, code="invalid_gateway_token", kind="authentication_error"
    )
    return JsonResponse(body, status=401, headers={"WWW-Authenticate": 'Bearer realm="llm"'})


def _unavailable(error: DatabaseError) -> HttpResponse:
    return _error(explain_database_error(error))


def _method_not_allowed(method: str) -> HttpResponse:
    body = script.build_error(
        405, f"This method is not allowed. Use {method}.", code="method_not_allowed"
    )
    return JsonResponse(body, status=405, headers={"Allow": method})
