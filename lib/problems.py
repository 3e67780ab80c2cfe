"""The base class of exceptions that services raise for clients, and their form as RFC 9457 problem details."""

from typing import Any

from lib.host_paths import hide_host_folder
from lib.logs import request_id


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
    """Return RFC 9457 problem details. ``error`` repeats the detail for existing OpenHands clients."""
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


class TooLarge(Problem):
    """A body or file exceeds its limit."""

    status = 413
    code = "too-large"
    sentence = "The body or file exceeds the size limit of this server."
