"""The list of models that a model server offers, and the check whether its URL lacks ``/v1``. No call costs tokens."""

import json
import os
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2

from billing import services
from billing.models import ModelAccess
from lib import http, url_guard
from lib.crypto import Undecryptable

SECONDS = 5.0
"""The timeout of a call."""
LIST_BYTES = 4_194_304
"""The maximum size of a list. A longer one is not read to its end and counts as no list."""
NAMES_MAX = 1_000
SHOWN = 20
"""The number of names in a sentence."""
_VERSION = re.compile(r"/v\d+[a-z0-9]*(?:/|$)")


@dataclass(frozen=True)
class Listing:
    """The answer of a model server to ``GET {url}``.

    ``names`` are the models in the server's order. ``reason`` says why there are none, and is empty for an empty list.
    ``status`` is the HTTP status, or 0 without an answer.
    """

    url: str
    names: tuple[str, ...] = ()
    reason: str = ""
    status: int = 0

    @property
    def is_api(self) -> bool:
        """Whether the URL belongs to an OpenAI-compatible API: it returned a list, or asks for an API key."""
        return not self.reason or self.status in {401, 403}

    def describe(self) -> str:
        """Return a sentence that names the models, or says why they are unknown."""
        if self.reason:
            return f"The list of models at {self.url} cannot be read: {self.reason}."
        if not self.names:
            return f"The server lists no models at {self.url}."
        count = f"{len(self.names)} model{'s' if len(self.names) != 1 else ''}"
        more = f" and {len(self.names) - SHOWN} more" if len(self.names) > SHOWN else ""
        return f"The server lists {count}: {', '.join(self.names[:SHOWN])}{more}."


def list_models(access: ModelAccess, *, base_url: str = "") -> Listing:
    """Ask a model server for its models, at its URL or at another URL of the same server. Nothing is raised."""
    url = f"{(base_url or access.base_url).rstrip('/')}/models"
    try:
        key = access.api_key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        reach = services.find_reach_of(access)
        with (
            http.client(seconds=SECONDS, allow_private=reach) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            raw = b""
            for piece in response.iter_bytes():
                raw += piece
                if len(raw) > LIST_BYTES:
                    break
    except Undecryptable:
        return Listing(url, reason="the stored API key cannot be decrypted, so enter it again")
    except (httpx2.HTTPError, httpx2.InvalidURL, url_guard.UnsafeUrl) as error:
        return Listing(url, reason=explain(error))
    if not response.is_success:
        return Listing(
            url, reason=f"the server responded with status {response.status_code}",
            status=response.status_code,
        )  # fmt: skip
    names = _parse(raw)
    if names is None:
        return Listing(url, reason="the answer is not a list of models", status=200)
    return Listing(url, names=names, status=response.status_code)


def suggest_base_url(access: ModelAccess) -> str:
    """Return the URL with ``/v1`` if the model server has its API there and not at the URL that was entered, else "".

    Nothing is asked if the URL has a version already, such as ``/v1`` or ``/v1beta/openai``.
    """
    if _VERSION.search(urlsplit(access.base_url).path) or list_models(access).is_api:
        return ""
    longer = f"{access.base_url.rstrip('/')}/v1"
    return longer if list_models(access, base_url=longer).is_api else ""


def explain(error: BaseException) -> str:
    """Return the reason why a call failed, in lower case and without the request, which has the API key."""
    if isinstance(error, url_guard.UnsafeUrl):
        return str(error).rstrip(".")
    if isinstance(error, httpx2.TimeoutException):
        return "no answer in time"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            reason = cause.strerror
            if reason.startswith("Connect call failed"):  # asyncio's text, which names no reason
                reason = os.strerror(cause.errno or 0)
            return reason[0].lower() + reason[1:]
        cause = cause.__cause__ or cause.__context__
    text = re.sub(r"^\[[^\]]*\] ", "", str(error)).rstrip(".") or type(error).__name__
    return text[0].lower() + text[1:]


def _parse(raw: bytes) -> tuple[str, ...] | None:
    """Return the names in a list of models, or None if the body is no such list.

    OpenAI and most others send ``{"data": [{"id"}]}``, Ollama's own API ``{"models": [{"name"}]}``, some a bare list.
    """
    try:
        body: Any = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    rows = body.get("data", body.get("models")) if isinstance(body, dict) else body
    if not isinstance(rows, list):
        return None
    found: list[str] = []
    for row in rows[:NAMES_MAX]:
        name = (row.get("id") or row.get("name")) if isinstance(row, dict) else row
        if isinstance(name, str) and name.isprintable() and 0 < len(name) <= 200:
            found.append(name)
    return tuple(dict.fromkeys(found))
