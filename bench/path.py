"""Follow one request through the project's files: a user's message to its nudge, a sign-in to its redirect.

A file counts when it is first entered, a move is a call into another file than the call before it, and a
return is a move to a file seen before. Only calls count: coming back to the caller is no move. Project files
are the Python files of this repository, less its tests, benches and migrations.

The counts have three parts. *View* is what runs inside the callable that Django's resolver found. *DRF's hooks*
are what REST framework calls by itself for such a view: authentication, permissions, negotiation, parsing,
rendering, and turning exceptions into answers. *Middleware* is the rest. The request is made by Django's test
client in this thread, so what stands before Django's handler (ASGI) and the thread that sends nudges are not
in it. Each request is made once before it is followed, so that imports and caches do not count; the log level
is that of a server, and rate limits are off.

To follow the code of another commit, copy this file into its ``bench/`` and run ``python -m bench.path`` there.
``--moves`` prints every move of the view.
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
"""Folders at the root whose files are not followed; those whose names begin with a dot are not either."""
DRF_HOOKS = {
    *("initialize_request", "initial", "check_object_permissions"),
    *("handle_exception", "finalize_response"),  # those five of its views
    *("_authenticate", "_parse"),  # of its request
    "rendered_content",  # of its response
}
"""Methods by which REST framework calls what a project gave it."""
WITH_MOVES = "--moves" in sys.argv


class Part(enum.StrEnum):
    """Whose work a call is."""

    MIDDLEWARE = "middleware"
    HOOK = "DRF's hooks"
    VIEW = "view"


@dataclass(frozen=True)
class Call:
    """A call of a project's function, or a generator that goes on."""

    file: str
    function: str
    part: Part
    is_after_commit: bool
    """Whether it runs in a hook of ``transaction.on_commit``."""


@dataclass(frozen=True)
class Count:
    """Of a sequence of calls."""

    files: int
    moves: int
    returns: int


@dataclass(frozen=True)
class Way:
    """One followed request, and how few files and returns its view should come to."""

    name: str
    request: str
    calls: Sequence[Call]
    end: str
    """What the view leads to: ``nudge`` ends with what runs after the commit, others with the view."""
    max_files: int
    max_returns: int | None = None

    def counts(self) -> dict[str, Count]:
        """The counts, by what they are of."""
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
        """The calls that the goal is about."""
        return _of(self._to_end(), Part.VIEW)

    def reach(self) -> str:
        """The goal in words."""
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
    """Print the ways; one figure a count, whose number is that of the files."""
    figures = []
    for way in (_message(), *_sign_in()):
        _print(way)
        figures += [
            report.figure(
                "path",
                f"{way.name}, {what}",
                counted.files,
                unit="files",
                reach=way.reach() if what == f"view to {way.end}" else "",
                moves=counted.moves,
                returns=counted.returns,
            )
            for what, counted in way.counts().items()
        ]
    return figures


# --- The requests -----------------------------------------------------------------


def _message() -> Way:
    """Say something by an API key in a conversation where something was said before."""
    from accounts import services

    user = services.create_user(email=f"path-{time.time_ns()}@example.com")
    _, token = services.issue_api_key(user=user, name="path")
    browser = _browser(HTTP_AUTHORIZATION=f"Bearer {token}")

    def post(path: str, **body: str) -> Any:
        return browser.post(path, data=body, content_type="application/json")

    made = post("/api/v1/conversations")
    assert made.status_code == 201, made.content
    path = f"/api/v1/conversations/{made.json()['id']}/messages"
    for _ in range(2):  # the second time is the one that counts
        with _followed(path) as calls:
            answer = post(path, text="Hello")
        assert answer.status_code == 202, answer.content
    request = "POST /api/v1/conversations/{id}/messages"
    return Way("message", request, calls, end="nudge", max_files=10, max_returns=3)


def _sign_in() -> Sequence[Way]:
    """Sign in with a provider as somebody who did so before: both requests, and the second alone."""
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
        for _ in range(2):  # the second time is the one that counts
            browser = _browser()
            with _followed(leave) as leaving:
                left = browser.get(leave)
            assert left.status_code == 302, left.content
            brought = provider.authorize(left.headers["Location"], person)
            with _followed(come_back) as coming_back:
                answer = browser.get(come_back, brought)
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
    browser.handler.load_middleware()  # which each client does in its first request
    return browser


# --- Following --------------------------------------------------------------------


@contextmanager
def _followed(path: str) -> Iterator[list[Call]]:
    """Note the project's calls in this thread while a request is made for ``path``."""
    from django.core.handlers.base import BaseHandler
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.urls import resolve

    view = resolve(path).func.__code__
    handler = BaseHandler._get_response.__code__  # noqa: SLF001 - the one that calls the view
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
    """Log at a server's usual level, to nowhere."""
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
    """The path of a project file below the root; nothing for any other."""
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
    walked = _moves(calls)
    files = {call.file for call in walked}
    return Count(len(files), max(len(walked) - 1, 0), len(walked) - len(files))


def _moves(calls: Iterable[Call]) -> list[Call]:
    """The first call, and every call into another file than the call before it."""
    walked: list[Call] = []
    for call in calls:
        if not walked or walked[-1].file != call.file:
            walked.append(call)
    return walked


def _of(calls: Iterable[Call], *parts: Part) -> Sequence[Call]:
    return [call for call in calls if call.part in parts]


# --- Printing ---------------------------------------------------------------------


def _print(way: Way) -> None:
    print(f"\n{way.name}: {way.request}\n")
    print(f"  {'':38}files  moves  returns")
    for what, counted in way.counts().items():
        print(f"  {what:38}{counted.files:5}  {counted.moves:5}  {counted.returns:7}")
    print(f"  goal of view to {way.end}: {way.reach()}")
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


if __name__ == "__main__":  # also on a commit whose list of benches does not have this one
    from bench import __main__ as benches

    benches.NAMES = ("path",)
    benches.main()
