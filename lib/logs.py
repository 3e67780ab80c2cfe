"""Log formatting: each line is a JSON object with the id of the request. One-time tokens are removed."""

import logging
import re
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
