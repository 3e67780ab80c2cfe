"""The endpoint from which a sandbox fetches the values of secrets, with the token of its conversation."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import cache_control, never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_GET

from accounts.sign_in.authentication import read_bearer_token
from billing import services as billing
from conversations import services
from lib.api import problem
from lib.problems import Problem
from lib.routes import RouteFacts


def _authenticate(request: HttpRequest) -> Any:
    """Return the verified token of the sandbox. The rate limit and the view use the same result. Raise ``Problem``."""
    if not hasattr(request, "gateway_token"):
        bearer = read_bearer_token(request.headers)
        request.gateway_token = billing.authenticate_gateway_token(bearer)  # type: ignore[attr-defined]
    return request.gateway_token  # type: ignore[attr-defined]


def _count_as_sandbox(request: HttpRequest) -> str:
    """Return the conversation of the request's token for the rate limits, or "" if the token is not valid."""
    try:
        return f"sandbox {_authenticate(request).conversation_id}"
    except Problem:
        return ""


@RouteFacts(called_by="agent")
@csrf_exempt
@cache_control(no_transform=True)  # not compressed
@never_cache
@require_GET
@sensitive_variables("value")
def secret(request: HttpRequest, name: str) -> HttpResponse:
    """Return the value of a conversation's secret as plain text to the conversation's sandbox, and audit the use."""
    try:
        value = services.reveal_secret(token=_authenticate(request), name=name)
    except Problem as refusal:
        return problem(status=refusal.status, code=refusal.code, detail=refusal.detail)
    return HttpResponse(value, content_type="text/plain; charset=utf-8")


secret.counted_as = _count_as_sandbox  # type: ignore[attr-defined]  # functions take attributes
