"""The only place that speaks GitHub's HTTP: REST v3 and GraphQL, on github.com or an Enterprise Server.

Answers become the problems of ``integrations.provider``; a token never appears in one.
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
BODY_MAX_BYTES = 10_000_000
LONGEST_WAIT_SECONDS = 3_600
API_VERSION = "2022-11-28"
REDIRECTS = 3


class GitHubClient:
    """Calls with one token. Cheap to make; keeps no connection open."""

    def __init__(self, *, host: str, token: str) -> None:
        self.web_url = web_url(host)
        self._api = api_url(host)
        self._token = token

    def get(self, path: str, **query: Any) -> tuple[Any, Mapping[str, str]]:
        """The JSON of an address below the API's root, and the answer's headers."""
        wanted = {name: value for name, value in query.items() if value is not None}
        return self._call("GET", f"{self._api}{path}", params=wanted)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Not repeated by itself: what it made may exist all the same."""
        return self._call("POST", f"{self._api}{path}", json=body)[0]

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The ``data`` of a query. What a token may not see is null in it, beside an error: that is kept."""
        address = f"{self._api.removesuffix('/v3')}/graphql"
        body, _ = self._call("POST", address, json={"query": query, "variables": variables})
        data = body.get("data") if isinstance(body, dict) else None
        if not isinstance(data, dict):
            raise _graphql_problem(body)
        return data

    def _call(self, method: str, address: str, **request: Any) -> tuple[Any, httpx2.Headers]:
        try:
            with http.client(seconds=SECONDS, headers=self._headers()) as client:
                answer = self._once(client, method, address, request)
                for _ in range(REDIRECTS):
                    target = _moved_to(answer, method)
                    if target is None:
                        break
                    answer = self._once(client, method, target, {})
        except url_guard.UnsafeUrl as error:
            raise NotAccepted(f"This Git host is not called: {error}") from error
        except httpx2.TimeoutException as error:
            raise GitHostAway(retry_after=10) from error
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            raise GitHostAway(
                f"{urlsplit(address).hostname} cannot be reached.", retry_after=10
            ) from error
        _raise_for_status(answer)
        if answer.status_code == 204 or not answer.content:
            return None, answer.headers
        try:
            return answer.json(), answer.headers
        except (ValueError, RecursionError) as error:
            raise GitHostTrouble(
                f"{urlsplit(address).hostname} answers, but not as GitHub does."
            ) from error

    def _once(
        self, client: httpx2.Client, method: str, address: str, request: dict[str, Any]
    ) -> httpx2.Response:
        with client.stream(method, address, **request) as answer:
            body = bytearray()
            for piece in answer.iter_bytes():
                body += piece
                if len(body) > BODY_MAX_BYTES:
                    raise GitHostTrouble("The Git host's answer is too large.")
        headers = httpx2.Headers(answer.headers)
        headers.pop("content-encoding", None)  # what was read is plain already
        return httpx2.Response(
            answer.status_code, headers=headers, content=bytes(body), request=answer.request
        )

    def _headers(self) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self._token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": API_VERSION,
            "User-Agent": "agent-server",
        }


def api_url(host: str) -> str:
    """The root of REST: api.github.com, or ``/api/v3`` of an Enterprise Server."""
    if host == "github.com":
        return "https://api.github.com"
    if host.endswith(".ghe.com"):  # GitHub Enterprise Cloud with data residency
        return f"https://api.{host}"
    return f"{web_url(host)}/api/v3"


def _moved_to(answer: httpx2.Response, method: str) -> str | None:
    """Where a renamed repository is now: on the same host, or the token would go to another."""
    if method != "GET" or answer.status_code not in (301, 302, 307, 308):
        return None
    target = answer.request.url.join(answer.headers.get("location", ""))
    here = answer.request.url
    same = (target.scheme, target.host, target.port) == (here.scheme, here.host, here.port)
    return str(target) if same else None


def _raise_for_status(answer: httpx2.Response) -> None:
    status = answer.status_code
    if status < 300:
        return
    said = _said(answer)
    if status == 401:
        raise TokenRefused
    if status in (403, 429) and (wait := _rate_limited(answer, said)):
        raise GitHostAway(
            f"The Git host takes no more requests for now. Try again in {wait} seconds.",
            retry_after=wait,
        )
    if status == 403:
        raise NotAllowed(f"The Git host does not allow this to your token: {said}")
    if status in (404, 410, 451):
        raise NoSuchRepository
    if status in (400, 409, 422):
        raise NotAccepted(f"The Git host did not accept this: {said}")
    if status >= 500:
        raise GitHostAway(retry_after=30)
    raise GitHostTrouble(f"The Git host answered {status}.")


def _rate_limited(answer: httpx2.Response, said: str) -> int:
    """Seconds to wait where a limit was hit, else 0.

    ``retry-after``, else ``x-ratelimit-reset`` when nothing remains, else a minute for a secondary limit
    (docs.github.com, "Rate limits for the REST API").
    """
    headers = answer.headers
    if (after := headers.get("retry-after", "")).isdecimal():
        return _bounded(int(after))
    if headers.get("x-ratelimit-remaining") == "0":
        reset = headers.get("x-ratelimit-reset", "")
        return _bounded(int(reset) - int(time.time()) if reset.isdecimal() else 60)
    return 60 if answer.status_code == 429 or "rate limit" in said.lower() else 0


def _bounded(seconds: int) -> int:
    return max(1, min(seconds, LONGEST_WAIT_SECONDS))


def _said(answer: httpx2.Response) -> str:
    """GitHub's own sentence and the sentences of its ``errors``."""
    try:
        body = answer.json()
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        return f"status {answer.status_code}"
    found = [body.get("message")]
    errors = body.get("errors")
    for error in errors if isinstance(errors, list) else []:
        if isinstance(error, dict):
            field, code = error.get("field"), error.get("code")
            found.append(error.get("message") or (f"{field} is {code}" if field else None))
        else:
            found.append(error)
    words = [word for word in found if isinstance(word, str) and word]
    return ". ".join(words)[:400] or f"status {answer.status_code}"


def _graphql_problem(body: Any) -> Exception:
    errors = body.get("errors") if isinstance(body, dict) else None
    first = errors[0] if isinstance(errors, list) and errors else {}
    first = first if isinstance(first, dict) else {}
    kind, said = first.get("type"), str(first.get("message") or "")[:300]
    if kind == "RATE_LIMITED":
        return GitHostAway(retry_after=60)
    if kind in ("FORBIDDEN", "INSUFFICIENT_SCOPES"):
        return NotAllowed(f"The Git host does not allow this to your token: {said}")
    if kind == "NOT_FOUND":
        return NoSuchRepository()
    return GitHostTrouble(f"The Git host did not answer the query: {said or 'no data'}")
