"""The OpenAPI document: what is added to every operation, the view that serves it, and its reader's page."""

from collections.abc import Callable
from functools import cache
from typing import Any

from django.http import HttpResponse
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer, OpenApiYamlRenderer
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularSwaggerSplitView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.permissions import PUBLIC, HasPermission
from lib.routes import RouteFacts
from openhands_site.middleware.headers import CONTENT_POLICY

PROBLEM = {
    "type": "object",
    "description": "RFC 9457 problem details. `error` repeats `detail` for older clients.",
    "required": ["type", "title", "status", "detail", "error", "code"],
    "properties": {
        "type": {"type": "string", "example": "about:blank#not-found"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "A sentence for a person."},
        "error": {"type": "string"},
        "code": {"type": "string", "description": "A word for programs; it does not change."},
        "request_id": {"type": "string", "description": "Quote it when you report a fault."},
        "errors": {
            "description": "What is wrong with each field of the body or query, with status 400.",
            "type": "object",
            "additionalProperties": {},
        },
    },
    "additionalProperties": {},
}
ANSWERS = {
    "400": ("BadRequest", "The request is malformed; `errors` names the fields."),
    "401": ("NotSignedIn", "No session and no key, or a key that is not valid."),
    "403": ("Forbidden", "A permission or the CSRF token is missing."),
    "404": ("NotFound", "There is nothing here that you may see."),
    "409": ("Conflict", "The state of things does not allow it; `code` says which."),
    "413": ("TooLarge", "The body is larger than the server takes."),
    "415": ("WrongType", "The body's type is not one that this takes."),
    "422": (
        "Unprocessable",
        "Not of the shape that existing clients send; `errors` names the fields.",
    ),
    "429": ("TooMany", "Too many requests; `Retry-After` says when to come back."),
    "503": (
        "Unavailable",
        "Something needed does not answer; `Retry-After` says when to come back.",
    ),
}
PROBLEM_CONTENT = {"schema": {"$ref": "#/components/schemas/Problem"}}
_METHODS = {"get", "put", "post", "delete", "patch"}


def add_problems(
    *, result: dict[str, Any], generator: Any, request: Any, public: bool
) -> dict[str, Any]:
    """Give every operation the problem answers it can make, without touching those it documents itself."""
    components = result["components"]
    components.setdefault("schemas", {})["Problem"] = PROBLEM
    components.setdefault("responses", {}).update(
        {name: _answer(sentence) for name, sentence in ANSWERS.values()}
    )
    for path, operations in result["paths"].items():
        for method in _METHODS & operations.keys():
            operation = operations[method]
            for status in _possible(path, method, operation):
                reference = {"$ref": f"#/components/responses/{ANSWERS[status][0]}"}
                own = operation["responses"].setdefault(status, reference)
                if own is not reference and "$ref" not in own:
                    own.setdefault("content", {}).setdefault(
                        "application/problem+json", PROBLEM_CONTENT
                    )
            operation["responses"] = dict(sorted(operation["responses"].items()))
    return result


def _possible(path: str, method: str, operation: dict[str, Any]) -> list[str]:
    statuses = ["400", "429", "503"] + (["403", "409"] if method != "get" else [])
    if {} not in operation.get("security", [{}]):
        statuses += ["401", "403", "404"]  # an organization that is named may not be there
    if "{" in path:
        statuses += ["404", "409"]
    if "requestBody" in operation:
        statuses += ["413", "415"]
    if "compat" in operation.get("tags", ()):
        statuses.append("422")
    return statuses


def _answer(sentence: str) -> dict[str, Any]:
    return {"description": sentence, "content": {"application/problem+json": PROBLEM_CONTENT}}


@cache
def document(form: str = "yaml") -> bytes:
    """The document as ``yaml`` or ``json``: the same for everybody, so a process makes it once."""
    schema = SchemaGenerator().get_schema(request=None, public=True)
    renderer = OpenApiJsonRenderer() if form == "json" else OpenApiYamlRenderer()
    made: bytes = renderer.render(schema, renderer_context={})
    return made


@RouteFacts(open_in_maintenance=True)
class SchemaView(APIView):
    """The OpenAPI document: YAML, or JSON for those who accept only that."""

    permission = PUBLIC
    renderer_classes = (OpenApiYamlRenderer, OpenApiJsonRenderer)

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        renderer = request.accepted_renderer
        form = "json" if isinstance(renderer, OpenApiJsonRenderer) else "yaml"
        return HttpResponse(document(form), content_type=renderer.media_type)


@RouteFacts(open_in_maintenance=True)
class DocsView(SpectacularSwaggerSplitView):
    """The document as a page; its script has an address of its own, so our content policy holds."""

    permission = PUBLIC
    permission_classes = (HasPermission,)
    url_name = "v1:schema"
    template_name = "site/api_docs.html"
    title = "API"

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """The page, or its script; the reader styles its elements itself, which no other page may."""
        page: Callable[..., Response] = super().get
        response = page(request, *args, **kwargs)
        response.headers["Content-Security-Policy"] = CONTENT_POLICY.replace(
            "style-src 'self'", "style-src 'self' 'unsafe-inline'"
        )
        return response
