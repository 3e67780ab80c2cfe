"""Send odd requests through Django's test client, roll each back, and collect server errors by their cause."""

import json
import logging
import os
import random
import re
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple
from unittest.mock import patch

from django.core import signals
from django.db import close_old_connections, transaction
from django.test import Client
from django.test import client as django_client

from openhands_site.serving.charsets import ThreadRequest

VALUES = int(os.environ.get("ODD_VALUES", "0"))
"""The number of odd values for each field in the slow tests. 0 is the default of the test, -1 sends all values."""
SHARE = float(os.environ.get("ODD_SHARE", "0"))
"""The share of the requests that the slow tests send, from 0 to 1. 0 is the default of the test."""
SEED = int(os.environ.get("ODD_SEED", "0"))
"""The seed that selects the share."""
REFLECTED = re.compile(
    r"Traceback|<class '|object at 0x|psycopg|rest_framework|django\.|\bDETAIL:|line \d+, in |codec can't|ErrorDetail\(|[A-Z][a-z]+Error\b|\bNoneType\b"
)
"""Texts of exceptions, which no response may contain."""
LONGEST_SENTENCE = 1_000


class Odd(NamedTuple):
    """A request: bytes of the body, percent-encoded path, and headers whose characters are bytes (latin-1)."""

    surface: str
    method: str
    path: str
    name: str
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.method[:20]} {self.path[:120]!a} [{self.name[:80]!a}] {self.body[:100]!r}"


class _Causes(logging.Handler):
    """The last exception that was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1]:
            self.error = record.exc_info[1]


class Tally:
    """Counts of requests by surface and status, and one example for each kind of failure."""

    def __init__(self, intended: Iterable[tuple[str, str]] = ()) -> None:
        self.requests: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.server_errors: Counter[str] = Counter()
        self.intended: Counter[str] = Counter()
        self.kinds: dict[str, tuple[int, str]] = {}
        self.unreadable: dict[str, str] = {}
        self._allowed = tuple(intended)

    def note(self, request: Odd, status: int, body: bytes, error: BaseException | None) -> None:
        self.requests[request.surface] += 1
        self.statuses[status] += 1
        if status >= 500:
            self._note_server_error(request, status, body, error)
        elif status >= 400 and (reason := find_unreadable(body, request)):
            self.unreadable.setdefault(f"{reason} {request.method} {request.path.partition('?')[0][:60]}", str(request))  # fmt: skip

    def _note_server_error(
        self, request: Odd, status: int, body: bytes, error: BaseException | None
    ) -> None:
        code = _code(body)
        for path, intended in self._allowed:
            # The response to HEAD has no body, so no code.
            has_code = code == intended or (request.method == "HEAD" and not code)
            if has_code and status != 500 and re.search(path, request.path):
                self.intended[f"{status} {code}"] += 1
                return
        self.server_errors[request.surface] += 1
        kind = f"{status} {code}"
        if error is not None:
            frames = traceback.extract_tb(error.__traceback__)
            ours = [f for f in frames if "/site-packages/" not in f.filename and "/tests/" not in f.filename and "/usr/" not in f.filename]  # fmt: skip
            places = " < ".join(f"{f.filename.rpartition('/')[0].rpartition('/')[2]}/{f.filename.rpartition('/')[2]}:{f.lineno}" for f in [*ours[-2:], frames[-1]][::-1])  # fmt: skip
            kind += f" {type(error).__name__}: {str(error)[:90]!a} at {places}"
        kind = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", kind)
        if kind not in self.kinds:
            print(f"{kind}\n    {request}", flush=True)
        count, example = self.kinds.get(kind, (0, str(request)))
        self.kinds[kind] = count + 1, example

    def report(self) -> str:
        lines = [
            f"{count} × {kind}\n    {example}"
            for kind, (count, example) in sorted(self.kinds.items(), key=lambda item: -item[1][0])
        ]
        lines += [
            f"unreadable: {kind}\n    {example}"
            for kind, example in list(self.unreadable.items())[:40]
        ]
        return "\n".join(lines)


def _code(body: bytes) -> str:
    try:
        return str(json.loads(body).get("code", ""))
    except (ValueError, AttributeError):
        return ""


def find_unreadable(body: bytes, request: Odd) -> str:
    """Return what is wrong with the body of an error response, or an empty text.

    A body is wrong if it is not UTF-8, contains the text of an exception, or, as JSON, has no sentence or one of more
    than ``LONGEST_SENTENCE`` characters.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return "not UTF-8"
    if match := REFLECTED.search(text):
        return f"exception {match[0]!r}"
    if text.startswith("{"):
        value = json.loads(text)
        sentence = (
            value.get("detail") or value.get("error") or value.get("message") or value.get("msg")
        )
        if isinstance(sentence, dict):
            sentence = sentence.get("message")
        if not sentence:
            return "no sentence"
        if len(str(sentence)) > LONGEST_SENTENCE:
            return "a sentence that is too long"
    return ""


class Sender:
    """Sends requests as one caller and notes their responses. Changes to the database are rolled back."""

    def __init__(self, tally: Tally, headers: dict[str, str] | None = None, user: Any = None):
        self.tally, self.headers, self.user = tally, headers or {}, user
        self.client = self._new_client()
        self.causes = _Causes()

    def _new_client(self) -> Client:
        client = Client(raise_request_exception=False)
        if self.user is not None:
            client.force_login(self.user)
        return client

    def send_all(self, requests: Iterable[Odd]) -> None:
        root = logging.getLogger()
        handlers, root.handlers = root.handlers, [self.causes]
        cookies = self.client.cookies.output()
        try:
            # The test client creates requests of Django's class; the server's class is ``ThreadRequest``.
            with patch.object(django_client, "WSGIRequest", ThreadRequest):
                for request in requests:
                    self.send(request)
                    if self.client.cookies.output() != cookies:
                        self.client = self._new_client()
                        cookies = self.client.cookies.output()
        finally:
            root.handlers = handlers

    def send(self, request: Odd) -> int:
        """Send a request; return the status."""
        self.causes.error = None
        extra = {
            _environ_name(name): value for name, value in (*self.headers.items(), *request.headers)
        }
        cookie = extra.pop("HTTP_COOKIE", None)
        saved = self.client.cookies.output(header="", sep=";").strip()
        if cookie is not None:
            extra["HTTP_COOKIE"] = f"{saved}; {cookie}"
        with transaction.atomic():
            try:
                status, body = self._open(request, extra)
            except Exception as error:  # noqa: BLE001 - an exception that no handler turned into a response
                status, body, self.causes.error = 599, b"", error
            finally:
                transaction.set_rollback(True)
        self.tally.note(request, status, body, self.causes.error)
        return status

    def _open(self, request: Odd, extra: dict[str, str]) -> tuple[int, bytes]:
        response = self.client.generic(
            request.method,
            request.path,
            request.body,
            content_type=request.content_type,
            **extra,
        )
        if response.streaming:
            # The client closes other responses. It connects this receiver again after each request.
            signals.request_finished.disconnect(close_old_connections)
            response.close()
            signals.request_finished.connect(close_old_connections)
        return response.status_code, b"" if response.streaming else response.content


def _environ_name(name: str) -> str:
    name = name.upper().replace("-", "_")
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"


def sample(requests: Iterable[Odd], share: float) -> Iterator[Odd]:
    """Yield a share of the requests, always the same ones for a seed and a path."""
    chance = random.Random(SEED)
    for request in requests:
        if chance.random() < share:
            yield request


def rotate(values: list[Any], at: int, count: int) -> Iterator[Any]:
    """Yield ``count`` values from a position on, around the end; all values if ``count`` is negative or larger."""
    if count < 0 or count >= len(values):
        yield from values
        return
    for step in range(count):
        yield values[(at * count + step) % len(values)]
