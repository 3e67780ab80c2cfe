"""Log formatting: each line is a JSON object with the id of the request. One-time tokens are removed."""

import logging
import re
import threading
import time
from contextvars import ContextVar
from datetime import UTC, datetime

import orjson

request_id: ContextVar[str] = ContextVar("request_id", default="")
_PLAIN = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "request"}


class WithoutTokens(logging.Filter):
    """A filter that removes one-time tokens and conversation keys from log messages that quote a URL."""

    _TOKEN = re.compile(
        r"(/(?:setup|invitations?|verify-email|shared)/|[?&]session_api_key=)[^\s/?&'\"]+"
        # A conversation key anywhere. Each run of its characters is read once, so the time stays linear.
        r"|(?<![A-Za-z0-9_-])((?>[A-Za-z0-9_-]*?ocs_(?=[A-Za-z0-9_-]{40})))[A-Za-z0-9_-]++\.[0-9a-f]{32,}"
    )

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if (masked := self._TOKEN.sub(r"\1\2…", text)) != text:
            record.msg, record.args = masked, ()
        return True


class JSONFormatter(logging.Formatter):
    """A formatter for JSON: ``{"time", "level", "logger", "message", "request_id"?, …extra, "exception"?}``."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
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
        return orjson.dumps(line, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()


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
