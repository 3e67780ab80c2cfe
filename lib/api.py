"""The common parts of API views: a strict JSON parser, a fast renderer, query validation and problem details."""

import hashlib
import json
import logging
import re
from array import array
from collections.abc import Mapping
from functools import cache
from itertools import accumulate
from typing import Any

import orjson
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponse, HttpResponseNotModified
from rest_framework import exceptions, parsers, renderers, serializers
from rest_framework.metadata import BaseMetadata
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.request import Request
from rest_framework.response import Response

from lib import causes
from lib.problems import Problem, TooLarge, problem_body
from lib.times import parse_time

log = logging.getLogger(__name__)
# An unclosed string matches up to the end of the text. Otherwise, each quote of a malicious body would start another
# pass over the rest.
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
# Opening brackets become the byte 1 and closing brackets the byte -1. All other bytes are deleted, so the running sum
# of the rest is the nesting depth.
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
# Only an escape sequence can put NUL or half of a surrogate pair into a JSON text, and only 19 digits exceed 64 bits.
_SUSPICIOUS = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])|[0-9]{19}")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_NO_STEPS = bytes(set(range(256)) - set(b"[{]}"))


def problem(
    *, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None, **extra: Any
) -> HttpResponse:
    """Return a Django response with problem details (RFC 9457), for code outside DRF."""
    body = problem_body(status=status, code=code, detail=detail, **extra)
    return HttpResponse(
        orjson.dumps(body), status=status, content_type="application/problem+json", headers=headers
    )


def problem_response(error: Exception, context: dict[str, Any]) -> Response | None:
    """Return the problem response for an exception of an API view, or None for an unexpected exception.

    This is DRF's exception handler, and the only place that maps exceptions of services to HTTP responses.
    """
    # Not at the top: importing this DRF module reads settings that refer to ``lib.api``.
    from rest_framework.views import set_rollback

    headers: dict[str, str] = {}
    extra: dict[str, Any] = {}
    if isinstance(error, Problem):
        status, code, detail, extra = error.status, error.code, error.detail, error.extra
        if "retry_after" in extra:
            headers["Retry-After"] = str(extra["retry_after"])
    elif isinstance(error, Http404):
        status, code = 404, "not-found"
        detail = "This does not exist, or you have no access to it."
    elif isinstance(error, PermissionDenied):
        status, code = 403, "forbidden"
        detail = str(error) or "You do not have permission to do this."
    elif cause := causes.find_cause(error):
        causes.log_cause(log, cause, error)
        status, code, detail, headers = cause.status, cause.code, cause.sentence, cause.headers
    elif isinstance(error, exceptions.ValidationError):
        status, code, extra = 400, "invalid", {"errors": error.detail}
        detail = first_sentence(error.detail)
    elif isinstance(error, exceptions.APIException):
        status, code = error.status_code, str(error.default_code).replace("_", "-")
        detail = first_sentence(error.detail)
        if challenge := getattr(error, "auth_header", None):
            headers["WWW-Authenticate"] = challenge
        if seconds := getattr(error, "wait", None):
            headers["Retry-After"] = str(int(seconds) + 1)
    else:
        return None
    set_rollback()
    body = problem_body(status=status, code=code, detail=detail, **extra)
    return Response(body, status=status, headers=headers, content_type="application/problem+json")


def first_sentence(detail: Any, name: str = "") -> str:
    """Return the first message of DRF's nested error detail, with the name of its field."""
    if isinstance(detail, Mapping):
        # DRF uses the keys below for errors that belong to no field.
        key, value = next(iter(detail.items()), ("", "Invalid."))
        return first_sentence(value, "" if key in ("non_field_errors", "detail") else str(key))
    if isinstance(detail, list):
        return first_sentence(next((part for part in detail if part), "Invalid."), name)
    return f"{name}: {detail}" if name else str(detail)


# --- JSON -----------------------------------------------------------------------


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is not valid JSON")


def _parse_finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return number


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object contains the same key twice")
    return result


def nesting(raw: bytes) -> int:
    """Return the nesting depth of the arrays and objects in a JSON text, without parsing it."""
    brackets = _STRING.sub(b"", raw).translate(_STEPS, _NO_STEPS)
    return max(accumulate(array("b", brackets), initial=0))


def strict_loads(raw: bytes, *, max_depth: int) -> Any:
    """Parse unambiguous JSON: UTF-8, no NaN or infinity, no repeated keys, and at most ``max_depth`` levels.

    Raise ``ValueError`` with a message for the client.
    """
    # Before parsing, because deep nesting exhausts the parser's stack.
    if nesting(raw) > max_depth:
        raise ValueError(f"it has more than {max_depth} levels of nesting")
    return json.loads(
        raw.decode("utf-8"),
        parse_constant=_refuse_constant,
        parse_float=_parse_finite,
        object_pairs_hook=_build_object,
    )


def find_unstorable(value: Any) -> str:
    """Return why a JSON value cannot be stored and written again, for the client, or an empty text.

    PostgreSQL stores no NUL, UTF-8 encodes no lone surrogate, and integers over 64 bits are not exchanged reliably
    (RFC 8259, section 6). The value may have as many levels as Python's recursion limit allows.
    """
    if isinstance(value, str):
        if _UNSTORABLE.search(value):
            return "it contains a NUL character or half of a surrogate pair, which cannot be stored"
    elif isinstance(value, dict):
        for key, inner in value.items():
            if reason := find_unstorable(key) or find_unstorable(inner):
                return reason
    elif isinstance(value, list):
        return next(filter(None, map(find_unstorable, value)), "")
    elif isinstance(value, int) and not -(2**63) <= value < 2**64:
        return "an integer has more than 64 bits"
    return ""


def _unstorable_field(value: Any) -> str:
    """Return the field of an object that contains the value of ``find_unstorable``, for an error of that field."""
    fields = value.items() if isinstance(value, dict) else ()
    names = (name for name, inner in fields if find_unstorable(name) or find_unstorable(inner))
    return next(names, "non_field_errors")


class StrictJSONParser(parsers.BaseParser):
    """A parser of JSON bodies. Malformed, ambiguous and unstorable JSON is rejected with 400 and the reason."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> Any:
        raw = stream.read(settings.BODY_MAX_BYTES + 1)
        if len(raw) > settings.BODY_MAX_BYTES:
            raise TooLarge(f"The body may have at most {settings.BODY_MAX_BYTES} bytes.")
        try:
            value = strict_loads(raw, max_depth=settings.JSON_MAX_DEPTH)
        except UnicodeDecodeError as error:
            raise exceptions.ParseError("The body is not UTF-8.") from error
        except ValueError as error:
            raise exceptions.ParseError(f"The body is not valid JSON: {error}.") from error
        if _SUSPICIOUS.search(raw) and (reason := find_unstorable(value)):
            sentence = f"The value is refused: {reason}."
            raise exceptions.ValidationError({_unstorable_field(value): [sentence]})
        return value


class JSONRenderer(renderers.BaseRenderer):
    """A renderer that uses orjson: UTF-8, datetimes as RFC 3339 in UTC, UUIDs as text.

    ``orjson.Fragment`` is written unchanged.
    """

    media_type = "application/json"
    format = "json"
    charset = None

    def render(
        self, data: Any, accepted_media_type: Any = None, renderer_context: Any = None
    ) -> bytes:
        if data is None:
            return b""
        return dumps(data)


class Metadata(BaseMetadata):
    """The response to ``OPTIONS``: the methods of the route. The OpenAPI document describes the rest.

    DRF's own class builds every serializer of a view and fails for views that choose theirs by the request.
    """

    def determine_metadata(self, request: Request, view: Any) -> dict[str, Any]:
        return {"methods": view.allowed_methods}


class Negotiation(DefaultContentNegotiation):
    """DRF's content negotiation, skipped for the frequent ``Accept`` values ``*/*`` and the default media type.

    It is also skipped for methods that a view does not have: DRF negotiates before it looks for the method, so a client
    would learn that the format is wrong (406) instead of the method (405). Probes get an answer whatever they accept: a
    load balancer that asks for HTML must not take the server out of service.
    """

    def select_renderer(self, request: Any, renderers: Any, format_suffix: Any = None) -> Any:
        first, accepted = renderers[0], request.META.get("HTTP_ACCEPT", "*/*")
        if not format_suffix and accepted in ("*/*", first.media_type):
            return first, first.media_type
        # Methods of a viewset are attributes of the instance too, if the route has them.
        view = (request.parser_context or {}).get("view")
        has_method = view is None or hasattr(view, request.method.lower())
        facts = getattr(view, "route_facts", None)
        if not has_method or (facts is not None and facts.called_by == "probe"):
            return first, first.media_type
        return super().select_renderer(request, renderers, format_suffix)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, str):  # ErrorDetail, lazy translations, SafeString
        return str.__str__(value)
    return str(value)


def dumps(data: Any) -> bytes:
    """Return the JSON bytes of a response."""
    return orjson.dumps(data, default=_plain, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS)


def conditional_response(request: Request, data: Any) -> HttpResponse:
    """Return a response with a weak ``ETag``, or 304 if the request's ``If-None-Match`` contains that tag.

    The tag is a digest of the response for this user, so it never matches across users or permissions.
    """
    body = dumps(data)
    tag = f'W/"{hashlib.sha256(body).hexdigest()[:24]}"'
    # ``If-None-Match`` compares tags weakly (RFC 9110), so the prefix ``W/`` is ignored.
    known = request.META.get("HTTP_IF_NONE_MATCH", "")
    if known and (
        known.strip() == "*" or tag[2:] in known.replace("W/", "").replace(" ", "").split(",")
    ):
        return HttpResponseNotModified(headers={"ETag": tag})
    return HttpResponse(body, content_type="application/json", headers={"ETag": tag})


# --- Bodies and queries ------------------------------------------------------------


class MomentField(serializers.DateTimeField):
    """A time that a client sends, in any form that ``lib.times`` reads."""

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, str):
            return super().to_internal_value(data)
        try:
            return parse_time(data)
        except ValueError:
            raise serializers.ValidationError(
                "This is not a time. Send a time such as 2026-11-29T10:00:00Z."
            ) from None


def parse_body(kind: type[serializers.Serializer[Any]], data: Any) -> dict[str, Any]:
    """Validate the data of a request's body with a serializer and return the validated data.

    Raise ``ValidationError`` (400) if a field is invalid or unknown. A program that sends an option under a wrong name
    must learn it, because the option may be the one that keeps an agent from acting without a question.
    """
    body = kind(data=data)
    body.is_valid(raise_exception=True)
    if unknown := data.keys() - body.fields.keys():
        name = min(map(str, unknown))
        raise exceptions.ValidationError({name[:80]: ["This field is not supported here."]})
    return dict(body.validated_data)


def parse_query(
    kind: type[serializers.Serializer[Any]],
    request: Request,
    *,
    ignoring: frozenset[str] | set[str] = frozenset(),
) -> dict[str, Any]:
    """Validate a request's query string with a serializer and return the validated data.

    Raise ``ValidationError`` (400) for a parameter that neither the serializer nor ``ignoring`` contains.
    """
    known = kind._declared_fields  # noqa: SLF001 - DRF's own list; instances copy every field
    unknown = request.query_params.keys() - known.keys() - ignoring
    if unknown:
        name = min(unknown)
        raise exceptions.ValidationError({name[:80]: ["This parameter is not supported here."]})
    query = kind(data={key: request.query_params[key] for key in request.query_params})
    query.__dict__["fields"] = fields_of(kind)
    query.is_valid(raise_exception=True)
    return dict(query.validated_data)


@cache
def fields_of(kind: type[serializers.Serializer[Any]]) -> Any:
    """Return the fields of a serializer of query strings, created once per serializer class.

    DRF copies the fields for every instance, which takes longer than the validation. Instances can share the fields,
    because a field stores no values.
    """
    return kind().fields
