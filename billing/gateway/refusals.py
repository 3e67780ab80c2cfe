"""Failures of calls to a model server, and what its error bodies say, in every known shape.

The shapes come from the error formats of OpenAI, Anthropic, Gemini (also as a list), Mistral, Cohere, Groq, OpenRouter,
DeepSeek, MiniMax, Baidu, Cloudflare, AWS, vLLM, llama.cpp, Ollama, TGI, LiteLLM and FastAPI, and from the plain text,
HTML and XML of proxies in front of them.
"""

import html
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from billing.gateway.retry_after import format_seconds, parse_duration
from lib.redaction import Redactor

MAX_MESSAGE = 1_000
"""The maximum length of an error message in characters."""
_MAX_DEPTH = 6
_TEXT_KEYS = (
    "message",
    "msg",
    "detail",
    "error_description",
    "errorDescription",
    "error",
    "errors",
    "error_message",
    "errorMessage",
    "error_msg",
    "status_msg",
    "base_resp",
    "fault",
    "faultstring",
    "err_msg",
    "err",
    "details",
    "reason",
    "description",
    "title",
    "Message",
    "exception",
)
"""The keys under which servers put the message, the most specific first."""
_STATUS_KEYS = ("code", "status", "status_code", "statusCode", "http_code", "http_status")
_STATUS_WORDS = (
    ("insufficient_quota", 429),
    ("rate_limit", 429),
    ("ratelimit", 429),
    ("too_many", 429),
    ("toomany", 429),
    ("resource_exhausted", 429),
    ("throttl", 429),
    ("quota", 429),
    ("overloaded", 503),
    ("unavailable", 503),
    ("context_length", 400),
    ("invalid_request", 400),
    ("invalid_argument", 400),
    ("invalidrequest", 400),
    ("bad_request", 400),
    ("badrequest", 400),
    ("validation", 400),
    ("content_filter", 400),
    ("content_policy", 400),
    ("authentication", 401),
    ("api_key", 401),
    ("unauthorized", 401),
    ("unauthenticated", 401),
    ("permission", 403),
    ("forbidden", 403),
    ("not_found", 404),
    ("notfound", 404),
    ("payment", 402),
    ("billing", 402),
    ("insufficient", 402),
    ("timeout", 504),
    ("deadline", 504),
    ("internal", 500),
    ("server_error", 500),
)
"""The HTTP status for a word in a code or type, for bodies that were sent with status 200."""
_HTML = re.compile(
    r"\s*(?:<!--.{0,2000}?-->\s*)*<(?:!doctype\s+html|html|head|body|title|h\d|p|div)\b",
    re.IGNORECASE | re.DOTALL,
)
_SUCCESS_TEXTS = ("", "ok", "success", "succeeded", "none", "null", "no error")
_JSON_MESSAGE = re.compile(r'"(?:message|msg|detail|error)"\s*:\s*"((?:[^"\\]|\\.){1,2000})')
_XML_MESSAGE = re.compile(r"<message>([^<]{1,2000})</message>", re.IGNORECASE)
_HTML_TITLE = re.compile(r"<title[^<>]*>([^<]{1,2000})</title>", re.IGNORECASE)
_HTML_INVISIBLE = re.compile(r"<(script|style|head)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
_HTML_TAG = re.compile(r"<[^<>]{0,2000}>")
_BEARER = re.compile(
    r"\b(Bearer|Basic|x-api-key:|api-key:)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE
)
_REDACTOR = Redactor()


class UpstreamRefused(Exception):
    """A call to the model server failed. The status and the message are for the caller, without the API key.

    ``retry_after`` is the number of seconds to wait, as text; empty if unknown.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        kind: str | None = None,
        retry_after: str = "",
    ) -> None:
        self.status, self.message, self.code = status, message, code
        self.kind, self.retry_after = kind, retry_after
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """The content of an error body. Missing parts are empty or None. ``status`` is the HTTP status that it names."""

    message: str = ""
    kind: str = ""
    code: str = ""
    status: int | None = None
    retry_after: str = ""


def build_refusal(
    details: ErrorDetails, *, status: int | None = None, key: str, retry_after: str = ""
) -> UpstreamRefused:
    """Return the exception for an error that the model server reported, with the API key and other secrets masked.

    Without a ``status`` (for an error inside a response with status 200), the status is the one that the body names, or
    502.
    """
    status = status or details.status or 502
    message = details.message or f"The model server responded with status {status}."
    message, kind, code = (mask(text, key) for text in (message, details.kind, details.code))
    return UpstreamRefused(
        status,
        shorten(message),
        code=code[:80] or f"upstream_{status}",
        kind=kind[:80] or None,
        retry_after=retry_after or details.retry_after,
    )


def parse_body(raw: bytes, content_type: str = "") -> ErrorDetails:
    """Return what the body of a response with an error status says, whatever its shape."""
    try:
        value = parse_json(raw, content_type)
    except (ValueError, RecursionError):
        return ErrorDetails(message=_extract_plain(raw, content_type))
    return _describe(value)


def parse_json(raw: bytes, content_type: str = "") -> Any:
    """Return the JSON value of a body in any encoding. Raise ``ValueError`` or ``RecursionError``."""
    try:
        return json.loads(raw)  # UTF-8, UTF-16 and UTF-32, with and without a byte order mark
    except ValueError:
        return json.loads(decode(raw, content_type))


def find_error(value: Any) -> ErrorDetails | None:
    """Return the error in a JSON value that was sent with status 200, or None if the value reports no error.

    ``value`` is a whole body, or one chunk of a stream.
    """
    if isinstance(value, list):
        found = (find_error(item) for item in value[:5] if isinstance(item, dict))
        return next((error for error in found if error), None)
    if not isinstance(value, dict):
        return None
    error = value.get("error")
    if _is_error(error) or value.get("object") == "error" or value.get("type") == "error":
        return _describe(value)
    choices = value.get("choices")
    if isinstance(choices, list) and choices:
        return _find_error_in_choices(value, choices)
    base = value.get("base_resp")  # MiniMax
    if isinstance(base, dict) and base.get("status_code") not in (None, 0, "0"):
        return _describe(base)
    if value.get("success") is False or _is_error(value.get("errors")):
        return _describe(value)
    # Some servers put the error at the top level. A chunk without choices can also be a ping or the usage.
    known = any(isinstance(value.get(key), str) and value[key] for key in _TEXT_KEYS)
    is_answer = choices is not None or "usage" in value or "usageMetadata" in value
    is_typed = isinstance(value.get("type"), str) and "error" not in value["type"].lower()
    if (known or isinstance(value.get("detail"), list)) and not is_answer and not is_typed:
        return _describe(value)
    return None


def mask(text: str, key: str) -> str:
    """Return a text in which the model server's API key and everything that looks like a secret is masked."""
    if key:  # some servers quote the rejected key
        for form in {key, json.dumps(key)[1:-1], quote(key, safe=""), html.escape(key)}:
            text = text.replace(form, "[key]")
    text = _BEARER.sub(r"\1 [key]", text)
    return _REDACTOR.text(text)


def shorten(text: str) -> str:
    """Return a text of at most ``MAX_MESSAGE`` characters, with a mark if it was longer."""
    return text if len(text) <= MAX_MESSAGE else f"{text[: MAX_MESSAGE - 1]}…"


def clean(text: str) -> str:
    """Return a text on one line, without control characters and lone surrogates, which the database cannot store."""
    text = text.encode("utf-8", "replace").decode()
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


# --- Reading JSON -------------------------------------------------------------------


def _is_error(value: Any) -> bool:
    """Return whether the value of ``error`` is an error. Some servers send an empty or successful one always."""
    if isinstance(value, str):
        return value.strip().lower() not in _SUCCESS_TEXTS
    if not isinstance(value, dict):
        return bool(value)
    codes = [code for code in (value.get("code"), value.get("status")) if code not in (None, "")]
    if codes and all(str(code).lower() in ("0", "200", "ok", "success") for code in codes):
        return _message(value).lower() not in _SUCCESS_TEXTS
    return any(part not in (None, "", False, [], {}) for part in value.values())


def _find_error_in_choices(value: dict[str, Any], choices: list[Any]) -> ErrorDetails | None:
    groq = value.get("x_groq")
    if isinstance(groq, dict) and _is_error(groq.get("error")):
        return _describe(groq)
    for choice in choices:
        if isinstance(choice, dict) and _is_error(choice.get("error")):  # OpenRouter
            return _describe(choice)
    return None


def _describe(value: Any) -> ErrorDetails:
    if isinstance(value, list):
        items = (item for item in value if isinstance(item, dict))
        value = next(items, value)
    if not isinstance(value, dict):
        return ErrorDetails(message=clean(value) if isinstance(value, str) else "")
    inner = value.get("error")
    if isinstance(inner, list):
        inner = next((item for item in inner if isinstance(item, dict)), None)
    if not isinstance(inner, dict):
        inner = _first_dict(value, ("detail", "base_resp", "fault", "errors"))
    layers = [inner, value] if isinstance(inner, dict) else [value]
    return ErrorDetails(
        message=clean(_message(value) or _summarize(value)),
        kind=clean(_first_text(layers, ("type", "error_type", "errorType", "status", "__type"))),
        code=clean(_first_text(layers, ("code", "error_code", "errorCode", "status_code"))),
        status=_find_status(layers),
        retry_after=_find_retry_delay(layers),
    )


def _first_dict(value: dict[str, Any], keys: Iterable[str]) -> dict[str, Any] | None:
    for key in keys:
        part = value.get(key)
        if isinstance(part, list):
            part = next((item for item in part if isinstance(item, dict)), None)
        if isinstance(part, dict):
            return part
    return None


def _message(value: Any, depth: int = 0) -> str:
    """Return the message in a part of an error body; an empty text if there is none."""
    if depth > _MAX_DEPTH:
        return ""
    if isinstance(value, str):
        return _unwrap(value, depth)
    if isinstance(value, list):
        texts = [_message(item, depth + 1) for item in value[:5]]
        return "; ".join(text for text in texts if text)
    if not isinstance(value, dict):
        return ""
    text = next(filter(None, (_message(value.get(key), depth + 1) for key in _TEXT_KEYS)), "")
    place = value.get("loc")  # FastAPI: the path of the field that is not valid
    if isinstance(place, list) and text:
        text = f"{'.'.join(str(part) for part in place[:8])}: {text}"
    metadata = value.get("metadata")  # OpenRouter: the message of the provider behind it
    if isinstance(metadata, dict) and (raw := _message(metadata.get("raw"), depth + 1)):
        text = f"{text}: {raw}" if text else raw
    return text


def _summarize(value: Any) -> str:
    """Return an error body of an unknown shape as JSON; an empty text if it contains no text."""

    def has_text(part: Any, depth: int = 0) -> bool:
        if depth > _MAX_DEPTH:
            return False
        parts = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        return (isinstance(part, str) and bool(part)) or any(has_text(p, depth + 1) for p in parts)

    return json.dumps(value, ensure_ascii=False)[: 2 * MAX_MESSAGE] if has_text(value) else ""


def _unwrap(text: str, depth: int) -> str:
    """Return the message inside a text that is itself JSON, as proxies write it; otherwise the text."""
    stripped = text.strip()
    if stripped[:1] in ("{", "["):
        try:
            return _message(json.loads(stripped), depth + 1) or stripped
        except (ValueError, RecursionError):
            pass
    return stripped


def _first_text(layers: list[dict[str, Any]], keys: Iterable[str]) -> str:
    for layer in layers:
        for key in keys:
            value = layer.get(key)
            if isinstance(value, str) and value:
                return value
            if type(value) is int and abs(value) < 10**9:
                return str(value)
    return ""


def _find_status(layers: list[dict[str, Any]]) -> int | None:
    for layer in layers:
        for key in _STATUS_KEYS:
            value = layer.get(key)
            if isinstance(value, str) and re.fullmatch(r"[45][0-9]{2}", value):
                value = int(value)
            if type(value) is int and 400 <= value <= 599:
                return value
    words = " ".join(
        str(layer.get(key, ""))[:100].lower()
        for layer in layers
        for key in ("code", "type", "status", "error_type", "__type", "error_code")
    )
    return next((status for word, status in _STATUS_WORDS if word in words), None)


def _find_retry_delay(layers: list[dict[str, Any]]) -> str:
    """Return the seconds of Google's ``RetryInfo``, such as ``"retryDelay": "34.07s"``."""
    for layer in layers:
        details = layer.get("details")
        for detail in details if isinstance(details, list) else ():
            delay = detail.get("retryDelay") if isinstance(detail, dict) else None
            seconds = parse_duration(delay) if isinstance(delay, str) else None
            if seconds is not None:
                return format_seconds(seconds)
    return ""


# --- Reading text and headers -------------------------------------------------------


def _extract_plain(raw: bytes, content_type: str) -> str:
    """Return the readable text of a body that is not JSON: plain text, or the text of an HTML or XML page."""
    text = decode(raw, content_type)
    if text.count("\ufffd") > len(text) // 10:
        return ""  # not a text
    if text.lstrip()[:1] in ("{", "[") and (match := _JSON_MESSAGE.search(text)):
        return clean(_unescape(match[1]))  # JSON that was cut off, or several values
    if match := _XML_MESSAGE.search(text):
        return clean(html.unescape(match[1]))
    if _HTML.match(text) or "html" in content_type.lower():
        if match := _HTML_TITLE.search(text):
            return clean(html.unescape(match[1]))
        return clean(html.unescape(_HTML_TAG.sub(" ", _HTML_INVISIBLE.sub(" ", text))))
    # An event stream with an error status
    lines = (line for line in text.splitlines() if line.startswith("data:"))
    for line in lines:
        try:
            return _describe(json.loads(line[5:])).message
        except (ValueError, RecursionError):
            continue
    return clean(text)


def decode(raw: bytes, content_type: str) -> str:
    """Return a body as text: UTF-8 if it is valid, else the encoding that the content type names."""
    for encoding in ("utf-8-sig", find_encoding(content_type)):
        try:
            return raw.decode(encoding)
        except (LookupError, ValueError):
            continue
    return raw.decode("utf-8", "replace")


def find_encoding(content_type: str) -> str:
    """Return the encoding that a content type names. It may be unknown to Python."""
    match = re.search(r"charset=[\"']?([A-Za-z0-9._-]{1,40})", content_type)
    return match[1] if match else "utf-8"


def _unescape(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text


def with_default_message(details: ErrorDetails, message: str) -> ErrorDetails:
    """Return the details with ``message`` if they contain none."""
    return details if details.message else replace(details, message=message)
