"""Who acts now: told by the edge (a request, a command, a job), asked by the audit log.

Services never see a request; the edge leaves here how to find out, and it is asked at the moment of the act,
because the API authenticates after the middleware has run.
"""

import getpass
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

ROLES = (
    *("run_web", "run_realtime", "run_worker", "run_conversation_manager", "run_grpc"),
    *("procrastinate", "quickstart", "runserver"),
)
"""Commands that serve: what they do on their own is the system's doing."""


@dataclass(frozen=True)
class Actor:
    """``kind`` is one of person, key, service_account, command, system, anonymous."""

    kind: str
    id: str = ""
    name: str = ""
    address: str = ""
    reason: str = ""


_find: ContextVar[Callable[[], Actor] | None] = ContextVar("actor", default=None)


def current() -> Actor:
    """Who acts: what the edge says, else the command that runs, else the system."""
    find = _find.get()
    return find() if find else _of_process()


@contextmanager
def acting(find: Callable[[], Actor]) -> Iterator[None]:
    """For the length of the block, ``find`` says who acts."""
    token = _find.set(find)
    try:
        yield
    finally:
        _find.reset(token)


def _of_process() -> Actor:
    words = [*sys.argv, ""]
    if Path(words[0]).name in ("manage.py", "__main__.py") and words[1] not in ROLES:
        return Actor("command", id=f"cli:{_os_user()}", name=words[1][:60])
    return Actor("system", id="system", name=os.environ.get("OH_ROLE", ""))


def _os_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry in passwd
        return str(os.getuid())
