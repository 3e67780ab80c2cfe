"""The OpenAPI document: a hook that adds the problem responses to every operation, and views for the document."""

import hashlib
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import orjson
from django.http import HttpResponse
from django.urls import reverse
from django.utils.cache import get_conditional_response
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer, OpenApiYamlRenderer
from drf_spectacular.utils import extend_schema
from rest_framework.renderers import TemplateHTMLRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

# Importing the schemes registers them with drf-spectacular. Not in an app's ``ready``, because drf-spectacular loads
# 240 modules that a worker and a manager do not need.
from accounts.api import schemes  # noqa: F401
from accounts.api.permissions import PUBLIC
from lib.routes import RouteFacts
from openhands_site.middleware.headers import CONTENT_POLICY
from openhands_site.middleware.web_client import IMMUTABLE

PROBLEM = {
    "type": "object",
    "description": "RFC 9457 problem details. `error` repeats `detail` for older clients.",
    "required": ["type", "title", "status", "detail", "error", "code"],
    "properties": {
        "type": {"type": "string", "example": "about:blank#not-found"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "A sentence for people."},
        "error": {"type": "string"},
        "code": {"type": "string", "description": "A stable identifier for programs."},
        "request_id": {
            "type": "string",
            "description": "The id of the request. Include it when you report a problem.",
        },
        "errors": {
            "description": "The error messages of each invalid field of the body or query (status 400 only).",
            "type": "object",
            "additionalProperties": {},
        },
    },
    "additionalProperties": {},
}
PROBLEM_RESPONSES = {
    "400": ("BadRequest", "The request is malformed. `errors` names the invalid fields."),
    "401": ("NotSignedIn", "The request has no session or key, or its key is not valid."),
    "403": ("Forbidden", "A permission or the CSRF token is missing."),
    "404": ("NotFound", "The object does not exist, or you have no access to it."),
    "409": (
        "Conflict",
        "The current state does not allow this request. `code` names the reason.",
    ),
    "413": ("TooLarge", "The body exceeds the size limit of this route."),
    "415": ("WrongType", "The route does not accept this content type."),
    "422": (
        "Unprocessable",
        "The body does not match the schema of the OpenHands API. `errors` names the invalid fields.",
    ),
    "429": ("TooMany", "Too many requests. `Retry-After` is the number of seconds to wait."),
    "503": (
        "Unavailable",
        "A required service is unavailable. `Retry-After` is the number of seconds to wait.",
    ),
}
"""Component name and description of each problem response, by HTTP status."""
PROBLEM_CONTENT = {"schema": {"$ref": "#/components/schemas/Problem"}}
_METHODS = {"get", "put", "post", "delete", "patch"}


def add_problems(
    *, result: dict[str, Any], generator: Any, request: Any, public: bool
) -> dict[str, Any]:
    """Complete each operation with the problem responses that it can return. Keep the responses that it documents.

    This is a postprocessing hook of drf-spectacular.
    """
    components = result["components"]
    components.setdefault("schemas", {})["Problem"] = PROBLEM
    components.setdefault("responses", {}).update(
        {name: _problem_response(sentence) for name, sentence in PROBLEM_RESPONSES.values()}
    )
    for path, operations in result["paths"].items():
        for method in _METHODS & operations.keys():
            operation = operations[method]
            for status in _possible_statuses(path, method, operation):
                reference = {"$ref": f"#/components/responses/{PROBLEM_RESPONSES[status][0]}"}
                own = operation["responses"].setdefault(status, reference)
                if own is not reference and "$ref" not in own:
                    own.setdefault("content", {}).setdefault(
                        "application/problem+json", PROBLEM_CONTENT
                    )
            operation["responses"] = dict(sorted(operation["responses"].items()))
    return result


def _possible_statuses(path: str, method: str, operation: dict[str, Any]) -> list[str]:
    statuses = ["400", "429", "503"] + (["403", "409"] if method != "get" else [])
    if {} not in operation.get("security", [{}]):
        # 404: the request may name an organization that does not exist.
        statuses += ["401", "403", "404"]
    if "{" in path:
        statuses += ["404", "409"]
    if "requestBody" in operation:
        statuses += ["413", "415"]
    if "compat" in operation.get("tags", ()):
        statuses.append("422")
    return statuses


def _problem_response(sentence: str) -> dict[str, Any]:
    return {"description": sentence, "content": {"application/problem+json": PROBLEM_CONTENT}}


@cache
def document(form: str = "yaml") -> bytes:
    """Return the OpenAPI document as ``yaml`` or ``json``. Cached, because the document is equal for all users."""
    schema = SchemaGenerator().get_schema(request=None, public=True)
    renderer = OpenApiJsonRenderer() if form == "json" else OpenApiYamlRenderer()
    content: bytes = renderer.render(schema, renderer_context={})
    return content


@cache
def version(form: str = "yaml") -> str:
    """Return a digest of the OpenAPI document."""
    return hashlib.sha256(document(form)).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Group:
    """The operations with one tag, each as method, path and the first sentence of its description."""

    name: str
    description: str
    operations: list[tuple[str, str, str]] = field(default_factory=list)


@cache
def outline() -> list[Group]:
    """Return the operations of the OpenAPI document by tag, in the order of the document."""
    content = orjson.loads(document("json"))
    groups = {tag["name"]: Group(tag["name"], tag["description"]) for tag in content["tags"]}
    for path, operations in content["paths"].items():
        for method in sorted(_METHODS & operations.keys()):
            operation = operations[method]
            sentence = operation.get("description", "").partition("\n\n")[0].partition(". ")[0]
            groups[operation["tags"][0]].operations.append((method, path, sentence))
    return list(groups.values())


@RouteFacts(open_in_maintenance=True)
class SchemaView(APIView):
    """The OpenAPI document as YAML, or as JSON for clients that accept only JSON and for the page of the API."""

    permission = PUBLIC
    renderer_classes = (OpenApiYamlRenderer, OpenApiJsonRenderer)

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        """Return the document. With its version in the URL, it can be cached permanently."""
        renderer = request.accepted_renderer
        asked = request.query_params.get("version")
        form = "json" if asked or isinstance(renderer, OpenApiJsonRenderer) else "yaml"
        tag = f'W/"{version(form)}"'
        headers = {
            "ETag": tag,
            "Cache-Control": IMMUTABLE if asked == version(form) else "public, no-cache",
        }
        response = HttpResponse(
            document(form),
            content_type=OpenApiJsonRenderer.media_type if asked else renderer.media_type,
            headers=headers,
        )
        conditional = get_conditional_response(request._request, etag=tag, response=response)  # noqa: SLF001 - Django's function takes Django's request
        return cast("HttpResponse", conditional)


@RouteFacts(open_in_maintenance=True)
class DocsView(APIView):
    """The OpenAPI document as a page: a list of all operations, which Swagger UI replaces when it has been loaded.

    ``api_docs.js`` starts Swagger UI, because the content security policy forbids inline scripts.
    """

    permission = PUBLIC
    renderer_classes = (TemplateHTMLRenderer,)

    @extend_schema(exclude=True)
    def get(self, request: Request) -> Response:
        """Return the page. Only this page allows inline styles, because Swagger UI uses them."""
        policy = CONTENT_POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
        return Response(
            {
                "document_url": f"{reverse('v1:schema')}?version={version('json')}",
                "groups": outline(),
            },
            template_name="site/api_docs.html",
            headers={"Content-Security-Policy": policy},
        )
