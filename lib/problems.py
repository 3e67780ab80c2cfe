"""Refusals: what services raise when they will not do something, told to callers as problem details."""

from typing import Any

from lib.logs import request_id


class Problem(Exception):
    """A refusal with a status and a sentence for the caller; the API turns it into problem details.

    Domain exceptions of the apps inherit from it and set ``status``, ``code`` and, as the default for
    ``detail``, ``sentence``.
    """

    status = 400
    code = "bad-request"
    sentence = "This request cannot be carried out."

    def __init__(self, detail: str | None = None, **extra: Any) -> None:
        self.detail = detail or self.sentence
        self.extra = extra
        super().__init__(self.detail)


def problem_body(*, status: int, code: str, detail: str, **extra: Any) -> dict[str, Any]:
    """RFC 9457 problem details, plus ``error``: the sentence that existing clients show."""
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
    sentence = "This is larger than the server takes."
