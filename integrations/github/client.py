"""The HTTP client for GitHub's REST and GraphQL APIs, on github.com or an Enterprise Server.

Error responses become the problems of ``integrations.provider``. Their texts never contain the token.
"""

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2

from integrations.hosts import web_url
from integrations.provider import (
    GitHostAway,
    GitHostTrouble,
    NoSuchRepository,
    NotAccepted,
    NotAllowed,
    TokenRefused,
)
from lib import http, url_guard

SECONDS = 15.0
"""The timeout of a request."""
BODY_MAX_BYTES = 10_000_000
MAX_WAIT_SECONDS = 3_600
"""The longest ``retry_after`` that is passed on. GitHub resets its rate limits every hour."""
API_VERSION = "2022-11-28"
MAX_REDIRECTS = 3


class GitHubClient:
    """A client for requests with one token. It opens a new connection for each request."""

    def __init__(self, *, host: str, token: str) -> None:
        self.web_url = web_url(host)
        self._api = api_url(host)
        self._token = token

    def get(self, path: str, **query: Any) -> tuple[Any, Mapping[str, str]]:
        """Return the JSON and the headers of a GET request. ``path`` is relative to the root of the API."""
        params = {name: value for name, value in query.items() if value is not None}
        return self._call("GET", f"{self._api}{path}", params=params)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the JSON of a POST request.

        The request is never retried, because it may have succeeded without a response.
        """
        return self._call("POST", f"{self._api}{path}", json=body)[0]

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Return the ``data`` of a GraphQL query.

        GitHub returns null and an error for objects that the token cannot read. Partial data is returned unchanged
        and does not raise.
        """
        url = f"{self._api.removesuffix('/v3')}/graphql"
        body, _ = self._call("POST", url, json={"query": query, "variables": variables})
        data = body.get("data") if isinstance(body, dict) else None
        if not isinstance(data, dict):
            raise _graphql_problem(body)
        return data

    def _call(self, method: str, url: str, **request: Any) -> tuple[Any, httpx2.Headers]:
        try:
            with http.client(seconds=SECONDS, headers=self._headers()) as client:
                response = self._send(client, method, url, request)
                for _ in range(MAX_REDIRECTS):
                    target = _redirect_target(response, method)
                    if target is None:
                        break
                    response = self._send(client, method, target, {})
        except url_guard.UnsafeUrl as error:
            raise NotAccepted(f"This Git host is not allowed: {error}") from error
        except httpx2.TimeoutException as error:
            raise GitHostAway(retry_after=10) from error
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            raise GitHostAway(
                f"{urlsplit(url).hostname} cannot be reached. Check the host name, or try again later.",
                retry_after=10,
            ) from error
        _raise_for_status(response)
        if response.status_code == 204 or not response.content:
            return None, response.headers
        try:
            return response.json(), response.headers
        except (ValueError, RecursionError) as error:
            raise GitHostTrouble(
                f"{urlsplit(url).hostname} is not a GitHub server: its response is not JSON. Check the host name."
            ) from error

    def _send(
        self, client: httpx2.Client, method: str, url: str, request: dict[str, Any]
    ) -> httpx2.Response:
        with client.stream(method, url, **request) as response:
            body = bytearray()
            for piece in response.iter_bytes():
                body += piece
                if len(body) > BODY_MAX_BYTES:
                    raise GitHostTrouble(
                        f"The response of the Git host is larger than {BODY_MAX_BYTES} bytes."
                    )
        headers = httpx2.Headers(response.headers)
        headers.pop("content-encoding", None)  # the body that was read is already decoded
        return httpx2.Response(
            response.status_code, headers=headers, content=bytes(body), request=response.request
        )

    def _headers(self) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self._token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": API_VERSION,
            "User-Agent": "agent-server",
        }


def api_url(host: str) -> str:
    """Return the root of the REST API: api.github.com, or ``/api/v3`` of an Enterprise Server."""
    if host == "github.com":
        return "https://api.github.com"
    if host.endswith(".ghe.com"):  # GitHub Enterprise Cloud with data residency
        return f"https://api.{host}"
    return f"{web_url(host)}/api/v3"


def _redirect_target(response: httpx2.Response, method: str) -> str | None:
    """Return the URL to follow if the response is a redirect, else None. GitHub redirects for renamed repositories.

    Return None for another host too, so that the token is not sent there.
    """
    if method != "GET" or response.status_code not in (301, 302, 307, 308):
        return None
    target = response.request.url.join(response.headers.get("location", ""))
    source = response.request.url
    is_same_host = (target.scheme, target.host, target.port) == (
        source.scheme,
        source.host,
        source.port,
    )
    return str(target) if is_same_host else None


def _raise_for_status(response: httpx2.Response) -> None:
    status = response.status_code
    if status < 300:
        return
    message = _error_message(response)
    if status == 401:
        raise TokenRefused
    if status in (403, 429) and (wait := _rate_limit_seconds(response, message)):
        raise GitHostAway(
            f"The rate limit of the Git host is reached. Try again in {wait} seconds.",
            retry_after=wait,
        )
    if status == 403:
        raise NotAllowed(f"The Git host denied the permission to your token: {message}")
    if status in (404, 410, 451):
        raise NoSuchRepository
    if status in (400, 409, 422):
        raise NotAccepted(f"The Git host rejected this request: {message}")
    if status >= 500:
        raise GitHostAway(retry_after=30)
    raise GitHostTrouble(f"The Git host returned the unexpected status {status}.")


def _rate_limit_seconds(response: httpx2.Response, message: str) -> int:
    """Return the seconds to wait if a rate limit is reached, else 0.

    The header ``retry-after`` takes precedence, then ``x-ratelimit-reset`` if no request remains. For a secondary rate
    limit without these headers, return a minute (docs.github.com, "Rate limits for the REST API").
    """
    headers = response.headers
    if (after := headers.get("retry-after", "")).isdecimal():
        return _bounded(int(after))
    if headers.get("x-ratelimit-remaining") == "0":
        reset = headers.get("x-ratelimit-reset", "")
        return _bounded(int(reset) - int(time.time()) if reset.isdecimal() else 60)
    return 60 if response.status_code == 429 or "rate limit" in message.lower() else 0


def _bounded(seconds: int) -> int:
    return max(1, min(seconds, MAX_WAIT_SECONDS))


def _error_message(response: httpx2.Response) -> str:
    """Return the message of an error response, followed by the messages in ``errors``. At most 400 characters."""
    try:
        body = response.json()
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        return f"status {response.status_code}"
    messages = [body.get("message")]
    errors = body.get("errors")
    for error in errors if isinstance(errors, list) else []:
        if isinstance(error, dict):
            field, code = error.get("field"), error.get("code")
            messages.append(error.get("message") or (f"{field} is {code}" if field else None))
        else:
            messages.append(error)
    texts = [message for message in messages if isinstance(message, str) and message]
    return ". ".join(texts)[:400] or f"status {response.status_code}"


def _graphql_problem(body: Any) -> Exception:
    errors = body.get("errors") if isinstance(body, dict) else None
    first = errors[0] if isinstance(errors, list) and errors else {}
    first = first if isinstance(first, dict) else {}
    kind, message = first.get("type"), str(first.get("message") or "")[:300]
    if kind == "RATE_LIMITED":
        return GitHostAway(retry_after=60)
    if kind in ("FORBIDDEN", "INSUFFICIENT_SCOPES"):
        return NotAllowed(f"The Git host denied the permission to your token: {message}")
    if kind == "NOT_FOUND":
        return NoSuchRepository()
    return GitHostTrouble(f"The Git host did not process the query: {message or 'no data'}")
