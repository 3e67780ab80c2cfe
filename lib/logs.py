"""Log formatting: JSON or text, with the id of the request, without secrets of URLs and without control characters."""

import logging
import re
import threading
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import orjson

request_id: ContextVar[str] = ContextVar("request_id", default="")
_PLAIN = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "request"}
SECRET_PATHS = (
    *("setup", "invitation", "invitations", "verify-email", "settings/email", "shared"),
    "password-reset",
)
"""The paths whose next segment is a secret. A test compares them with the URL patterns."""

_SLASH = r"(?:/|%2f){1,3}"
_PATHS = "|".join(_SLASH.join(map(re.escape, path.split("/"))) for path in SECRET_PATHS)
_SECRETS = re.compile(
    # The last part of a link
    rf"(?P<path>{_SLASH}(?:{_PATHS}){_SLASH})(?:(?!%2f)[^\s/?&#'\"])+"
    # Each value in a query string or fragment, because a client can put a secret into any of them
    r"|(?P<name>(?:[?&;#]|%3f|%26)[\w.\-\[\]%]{1,64}?(?:=|%3d)(?:ocs_)?)[^\s&;#'\"<>]+"
    # Our keys, whose first part is public except in conversation keys
    r"|(?P<start>ocs_)[\w-]{20,200}\.[\w-]{20,}"
    r"|(?P<key>\b(?:oh_|ogt_)[0-9a-z]{8,32}\.)[\w-]{20,}"
    # Other texts of the form <id>.<secret>, such as the tokens of invitations
    r"|(?P<id>\b[\w-]{12,64}\.)(?=[\w-]{0,99}\d)(?=(?-i:[\w-]{0,99}[A-Z]))[\w-]{32,}\b(?!\.)"
    # Signed tokens (RFC 7519) and credentials in headers
    r"|\beyJ[\w-]{4,500}\.[\w-]{4,}\.[\w-]*"
    r"|(?P<scheme>\b(?:bearer|basic)\s{1,4})[\w.~+/=-]{8,}",
    re.IGNORECASE,
)
_LONG_SEGMENT = re.compile(r"[^/]{20,}")
_ID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\ufff9-\uffff]"
)
"""Characters that can end a line, move the cursor or reorder text on a terminal, and lone surrogates."""


def hide_secrets(text: str) -> str:
    """Replace the secrets of links, query strings, keys and tokens in a text by ``…``."""
    return _SECRETS.sub(_hide, text)


def _hide(match: re.Match[str]) -> str:
    kept = next((value for value in match.groupdict().values() if value), "")
    return f"{kept}…"


def hide_long_segments(path: str) -> str:
    """Replace each long segment of a URL path except ids by ``…``: in an unknown path it may be a secret."""
    return _LONG_SEGMENT.sub(lambda match: match[0] if _ID.fullmatch(match[0]) else "…", path)


def escape(text: str) -> str:
    r"""Replace control characters by escapes such as ``\x1b``, so that a text cannot forge a line of the log."""
    return _UNPRINTABLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


class WithoutTokens(logging.Filter):
    """A filter that removes secrets from log messages that quote a URL."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # a wrong format; the handler reports it
            return True
        if (masked := hide_secrets(text)) != text:
            record.msg, record.args = masked, ()
        return True


class WithoutAcceptedSockets(logging.Filter):
    """A filter that drops uvicorn's lines for each accepted WebSocket. The lines for refused ones stay."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).endswith(("[accepted]", "connection open", "connection closed"))


class WithoutTracebacksOfClientFaults(logging.Filter):
    """A filter that drops the traceback of a request that Django refuses with 400, such as one with a wrong ``Host``.

    Django logs the exception (``django.security.*``), but the fault is in the request, and the message names it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith("django.security."):
            record.exc_info = record.exc_text = None
        return True


class TextFormatter(logging.Formatter):
    """A formatter for terminals: one line per record, followed by the indented lines of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{record.levelname[:1]} {record.name}: {_clean(record.getMessage())}"
        return "\n".join([line, *(f"    {text}" for text in self._details(record))])

    def _details(self, record: logging.LogRecord) -> list[str]:
        # The message of an exception can contain line breaks: an indented line cannot be taken for a record.
        exception = self.formatException(record.exc_info) if record.exc_info else ""
        stack = self.formatStack(record.stack_info) if record.stack_info else ""
        return [_clean(text) for text in f"{exception}\n{stack}".split("\n") if text.strip()]


class JSONFormatter(logging.Formatter):
    """A formatter for JSON: ``{"time", "level", "logger", "message", "request_id"?, …extra, "exception"?}``."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if value := request_id.get():
            line["request_id"] = value
        line |= {
            k: v for k, v in record.__dict__.items() if k not in _PLAIN and not k.startswith("_")
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        cleaned = _clean_value(line)
        try:
            return orjson.dumps(
                cleaned, default=_represent, option=orjson.OPT_NON_STR_KEYS
            ).decode()
        except TypeError:  # for example an integer of more than 64 bits
            texts = {k: v if isinstance(v, str) else _represent(v) for k, v in cleaned.items()}
            return orjson.dumps(texts).decode()


def _clean(text: str) -> str:
    return escape(hide_secrets(text))


def _clean_lines(text: str) -> str:
    # JSON escapes line breaks itself, so a traceback keeps them.
    return "\n".join(_clean(line) for line in text.split("\n"))


def _clean_value(value: Any) -> Any:
    """Return a value with cleaned texts; containers are copied."""
    if isinstance(value, str):
        return _clean_lines(value)
    if isinstance(value, dict):
        return {
            _clean_value(k) if isinstance(k, str) else k: _clean_value(v) for k, v in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean_value(item) for item in value]
    return value


def _represent(value: Any) -> str:
    return _clean_lines(repr(value))


_last_lines: dict[tuple[str, str], tuple[float, int]] = {}
"""By logger and key: the time of the last line, and the number of lines left out since then."""
_last_lines_lock = threading.Lock()
MINUTE = 60.0


def may_log(logger: str, key: str) -> int | None:
    """Return None if a line with this key was logged in the last minute, else the number of lines left out since then.

    The keys must be few, such as the causes of a failure.
    """
    now = time.monotonic()
    with _last_lines_lock:
        at, left_out = _last_lines.get((logger, key), (-MINUTE, 0))
        if now - at < MINUTE:
            _last_lines[logger, key] = at, left_out + 1
            return None
        _last_lines[logger, key] = now, 0
        return left_out


def once_a_minute(log: logging.Logger, level: int, key: str, message: str) -> None:
    """Log a message at most once a minute for each logger and key. The next line says how many were left out."""
    left_out = may_log(log.name, key)
    if left_out is not None:
        log.log(level, "%s%s", message, f" ({left_out} similar lines left out)" if left_out else "")
