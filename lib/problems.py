"""The base class of exceptions that services raise for clients, and their form as RFC 9457 problem details."""

import re
from collections.abc import Mapping
from typing import Any

from lib.host_paths import hide_host_folder
from lib.logs import request_id

LONGEST_TEXT = 600
"""The maximum length of a text in problem details. Messages repeat what the client sent, which can be a megabyte."""
_UNENCODABLE = re.compile("[\0\ud800-\udfff]")


class Problem(Exception):
    """An exception with an HTTP status and a sentence for users, which the API returns as problem details.

    The exceptions of services inherit from this class and set ``status``, ``code`` and ``sentence`` (the default of
    ``detail``).
    """

    status = 400
    code = "bad-request"
    sentence = "The server cannot process this request."

    def __init__(self, detail: str | None = None, **extra: Any) -> None:
        # Messages of sandboxes and of the operating system may contain folders of this server.
        self.detail = hide_host_folder(detail or self.sentence)
        self.extra = extra
        super().__init__(self.detail)


def problem_body(*, status: int, code: str, detail: str, **extra: Any) -> dict[str, Any]:
    """Return RFC 9457 problem details. ``error`` repeats the detail for existing OpenHands clients.

    Texts are made readable, because they can contain parts of the request (``make_readable``).
    """
    detail, extra = make_readable(detail), make_readable(extra)
    body = {
        "type": f"about:blank#{code}",
        "title": code.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
        "error": detail,
        "code": code,
    }
    if value := request_id.get():
        body["request_id"] = value
    return body | extra


def make_readable(value: Any) -> Any:
    """Return a value of a problem with texts that UTF-8 can encode and that have at most ``LONGEST_TEXT`` characters.

    NUL and lone surrogates become U+FFFD. The middle of a long text is replaced by an ellipsis.
    """
    if isinstance(value, str):
        text = str.__str__(value)  # DRF's ErrorDetail is a subclass
        if len(text) > LONGEST_TEXT:
            half = LONGEST_TEXT // 2 - 2
            text = f"{text[:half]} … {text[-half:]}"
        return _UNENCODABLE.sub("\N{REPLACEMENT CHARACTER}", text)
    if isinstance(value, Mapping):
        return {
            make_readable(key) if isinstance(key, str) else key: make_readable(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [make_readable(inner) for inner in value]
    return value


class TooLarge(Problem):
    """A body or file exceeds its limit."""

    status = 413
    code = "too-large"
    sentence = "The body or file exceeds the size limit of this server."
