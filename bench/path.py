"""The path of a request through the project's files: a message up to its nudge, and a sign-in up to its redirect.

The benchmark traces function calls in project files: the Python files of this repository except tests, benchmarks and
migrations. *Files* is the number of different files with calls. A *move* is a call in another file than the previous
call, and a *return* is a move to a file that had a call before. The end of a call is not a move.

The calls are counted in three parts. *View* is every call inside the view that Django's resolver returns. *DRF's hooks*
are the calls that REST framework makes for a view: authentication, permissions, negotiation, parsing, rendering and
exception handling. *Middleware* is the rest. Django's test client makes the requests in this thread, so ASGI and the
thread that sends nudges are not included. Each request is made once before it is traced, so that neither imports nor
the filling of caches are counted. The log level is that of a server, and rate limits are off.

To trace another commit, copy this file into its ``bench/`` folder and run ``python -m bench.path`` there. ``--moves``
prints every move of the view.
"""

import enum
import io
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from bench import report

ROOT = Path(__file__).resolve().parent.parent
APART = {"tests", "bench", "data"}
"""Top-level folders whose files are not traced. Hidden folders are not traced either."""
DRF_HOOKS = {
    *("initialize_request", "initial", "check_object_permissions"),
    *("handle_exception", "finalize_response"),  # these five are methods of views
    *("_authenticate", "_parse"),  # methods of the request
    "rendered_content",  # a method of the response
}
"""Methods in which REST framework calls the classes that a project configures."""
WITH_MOVES = "--moves" in sys.argv


class Part(enum.StrEnum):
    """The part of a request that a call belongs to."""

    MIDDLEWARE = "middleware"
    HOOK = "DRF's hooks"
    VIEW = "view"


@dataclass(frozen=True)
class Call:
    """A call of a function of the project, or the continuation of a generator."""

    file: str
    function: str
    part: Part
    is_after_commit: bool
    """Whether it runs in a hook of ``transaction.on_commit``."""


@dataclass(frozen=True)
class Count:
    """The counts of a sequence of calls."""

    files: int
    moves: int
    returns: int


@dataclass(frozen=True)
class Way:
    """A traced request, and the goals for the files and returns of its view."""

    name: str
    request: str
    calls: Sequence[Call]
    end: str
    """The result of the view. With ``nudge`` the calls after the commit are included, otherwise only the view."""
    max_files: int
    max_returns: int | None = None

    def counts(self) -> dict[str, Count]:
        """Return the counts of each part of the request, by name."""
        parts = {
            "everything": self.calls,
            "middleware": _of(self.calls, Part.MIDDLEWARE),
            f"view to {self.end}": self.view(),
        }
        if _of(self.calls, Part.HOOK):
            with_hooks = _of(self._to_end(), Part.VIEW, Part.HOOK)
            parts |= {
                "DRF's hooks": _of(self.calls, Part.HOOK),
                f"view to {self.end}, with DRF's hooks": with_hooks,
                "view to answer": _of(self.calls, Part.VIEW),
                "view to answer, with DRF's hooks": _of(self.calls, Part.VIEW, Part.HOOK),
            }
        return {name: count(calls) for name, calls in parts.items()}

    def view(self) -> Sequence[Call]:
        """Return the calls that the goal applies to."""
        return _of(self._to_end(), Part.VIEW)

    def format_goal(self) -> str:
        """Return the goal as a text."""
        returns = "" if self.max_returns is None else f", returns <= {self.max_returns}"
        return f"<= {self.max_files}{returns}"

    def _to_end(self) -> Sequence[Call]:
        last = [
            number
            for number, call in enumerate(self.calls, start=1)
            if call.part == Part.VIEW and (call.is_after_commit or self.end != "nudge")
        ]
        assert last, f"{self.request} led to no {self.end}"
        return self.calls[: last[-1]]


def run() -> list[dict[str, Any]]:
    """Print the traced requests. Return one figure per count; its value is the number of files."""
    figures = []
    for way in (_message(), *_sign_in()):
        _print(way)
        figures += [
            report.figure(
                "path",
                f"{way.name}, {what}",
                counted.files,
                unit="files",
                reach=way.format_goal() if what == f"view to {way.end}" else "",
                moves=counted.moves,
                returns=counted.returns,
            )
            for what, counted in way.counts().items()
        ]
    return figures


# --- The requests -----------------------------------------------------------------


def _message() -> Way:
    """Trace a second message to a conversation, posted with an API key."""
    from accounts import services

    user = services.create_user(email=f"path-{time.time_ns()}@example.com")
    _, token = services.issue_api_key(user=user, name="path")
    browser = _browser(HTTP_AUTHORIZATION=f"Bearer {token}")

    def post(path: str, **body: str) -> Any:
        return browser.post(path, data=body, content_type="application/json")

    created = post("/api/v1/conversations")
    assert created.status_code == 201, created.content
    path = f"/api/v1/conversations/{created.json()['id']}/messages"
    for _ in range(2):  # the second request is counted
        with _followed(path) as calls:
            answer = post(path, text="Hello")
        assert answer.status_code == 202, answer.content
    request = "POST /api/v1/conversations/{id}/messages"
    return Way("message", request, calls, end="nudge", max_files=10, max_returns=3)


def _sign_in() -> Sequence[Way]:
    """Trace the sign-in of a known user at an identity provider: both requests together, and the second alone."""
    from accounts.models import IdentityProvider
    from tests.fakes.oidc_provider import OidcProvider

    with OidcProvider() as provider:
        row = IdentityProvider(
            slug=f"path-{time.time_ns()}",
            name="Path",
            kind=IdentityProvider.Kind.KEYCLOAK,
            issuer=provider.issuer,
            client_id=provider.client_id,
        )
        row.client_secret = provider.client_secret
        row.save()
        person = provider.add_person(f"path-{time.time_ns()}")
        leave, come_back = f"/oidc/{row.slug}/sign-in", f"/oidc/{row.slug}/callback"
        for _ in range(2):  # the second sign-in is counted
            browser = _browser()
            with _followed(leave) as leaving:
                left = browser.get(leave)
            assert left.status_code == 302, left.content
            answer_query = provider.authorize(left.headers["Location"], person)
            with _followed(come_back) as coming_back:
                answer = browser.get(come_back, answer_query)
            assert answer.status_code == 302, answer.content
    second = "GET /oidc/{slug}/callback"
    both = f"GET /oidc/{{slug}}/sign-in, {second}"
    return (
        Way("sign-in", both, [*leaving, *coming_back], end="redirect", max_files=12),
        Way("coming back", second, coming_back, end="redirect", max_files=12),
    )


def _browser(**headers: str) -> Any:
    from django.conf import settings
    from django.test import Client

    browser = Client(HTTP_HOST=urlsplit(settings.PUBLIC_URL).netloc, **headers)
    browser.handler.load_middleware()  # otherwise the first request loads it
    return browser


# --- Following --------------------------------------------------------------------


@contextmanager
def _followed(path: str) -> Iterator[list[Call]]:
    """Record the project's calls in this thread while a request is made for ``path``."""
    from django.core.handlers.base import BaseHandler
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.urls import resolve

    view = resolve(path).func.__code__
    handler = BaseHandler._get_response.__code__  # noqa: SLF001 - this method calls the view
    commit = BaseDatabaseWrapper.run_and_clear_commit_hooks.__code__
    calls: list[Call] = []
    running: dict[FrameType | None, tuple[Part, bool]] = {}

    def notice(frame: FrameType, event: str, _: Any) -> None:
        if event == "return":
            running.pop(frame, None)
        elif event == "call":
            code, caller = frame.f_code, frame.f_back
            part, is_after_commit = running.get(caller, (Part.MIDDLEWARE, False))
            if code is view and caller is not None and caller.f_code is handler:
                part = Part.VIEW
            elif code.co_name in DRF_HOOKS and (_is_drf(frame) or _is_drf(caller)):
                part = Part.HOOK
            is_after_commit = is_after_commit or code is commit
            running[frame] = part, is_after_commit
            if file := _project_file(code.co_filename):
                calls.append(Call(file, code.co_qualname, part, is_after_commit))

    with _log_like_a_server():
        sys.setprofile(notice)
        try:
            yield calls
        finally:
            sys.setprofile(None)


@contextmanager
def _log_like_a_server() -> Iterator[None]:
    """Log at a server's usual level and discard the output."""
    root = logging.getLogger()
    level, handlers = root.level, [h for h in root.handlers if hasattr(h, "setStream")]
    streams = [handler.setStream(io.StringIO()) for handler in handlers]
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        for handler, stream in zip(handlers, streams, strict=True):
            handler.setStream(stream)


@cache
def _project_file(name: str) -> str:
    """Return the path of a project file relative to the root; "" for all other files."""
    path = Path(name)
    if not path.is_relative_to(ROOT):
        return ""
    inner = path.relative_to(ROOT)
    first = inner.parts[0]
    is_apart = first in APART or first.startswith(".") or "migrations" in inner.parts
    return "" if is_apart else inner.as_posix()


def _is_drf(frame: FrameType | None) -> bool:
    return frame is not None and frame.f_globals.get("__name__", "").startswith("rest_framework.")


# --- Counting ---------------------------------------------------------------------


def count(calls: Iterable[Call]) -> Count:
    """Count the files of the calls, the moves between them, and the moves to a file seen before."""
    visited = _moves(calls)
    files = {call.file for call in visited}
    return Count(len(files), max(len(visited) - 1, 0), len(visited) - len(files))


def _moves(calls: Iterable[Call]) -> list[Call]:
    """Return the first call, and every call in another file than the previous call."""
    visited: list[Call] = []
    for call in calls:
        if not visited or visited[-1].file != call.file:
            visited.append(call)
    return visited


def _of(calls: Iterable[Call], *parts: Part) -> Sequence[Call]:
    return [call for call in calls if call.part in parts]


# --- Printing ---------------------------------------------------------------------


def _print(way: Way) -> None:
    print(f"\n{way.name}: {way.request}\n")
    print(f"  {'':38}files  moves  returns")
    for what, counted in way.counts().items():
        print(f"  {what:38}{counted.files:5}  {counted.moves:5}  {counted.returns:7}")
    print(f"  goal of view to {way.end}: {way.format_goal()}")
    _print_files("middleware", _of(way.calls, Part.MIDDLEWARE))
    _print_files("DRF's hooks", _of(way.calls, Part.HOOK))
    _print_files(f"view to {way.end}", way.view())
    if WITH_MOVES:
        _print_moves(f"view to {way.end}, every move", way.view())
    print()


def _print_files(title: str, calls: Iterable[Call]) -> None:
    first: dict[str, Call] = {}
    for call in calls:
        first.setdefault(call.file, call)
    _print_list(title, first.values())


def _print_moves(title: str, calls: Iterable[Call]) -> None:
    _print_list(title, _moves(calls))


def _print_list(title: str, calls: Iterable[Call]) -> None:
    lines = [
        f"  {number:3}  {call.file:46}  {call.function}"
        for number, call in enumerate(calls, start=1)
    ]
    print("\n".join(["", f"{title}: {'' if lines else 'nothing'}".rstrip(), *lines]))


# This works also in a commit whose list of benchmarks does not contain ``path``.
if __name__ == "__main__":
    from bench import __main__ as benches

    benches.NAMES = ("path",)
    benches.main()
