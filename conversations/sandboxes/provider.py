"""The interface of sandbox providers. A provider starts, inspects and stops sandboxes with one technology.

A provider never uses the database. It receives a ``SandboxSpec`` and returns a ``Handle``: JSON that the caller stores
so that the provider can find the sandbox again.
"""

import enum
import socket
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from typing import Any, ClassVar, Protocol, TypeAlias
from uuid import UUID

from conversations.sandboxes.egress.policy import REFUSE_ALL, Policy
from lib.problems import Problem

Handle: TypeAlias = dict[str, Any]
"""The JSON by which a provider finds a sandbox again. It contains no secrets, and only the provider reads it."""
ENGINE_PORT = 0
"""The port to dial for the engine, wherever the provider put it."""
DIAL_SECONDS = 5.0
"""The time after which a dial that gets no answer fails."""


class State(str, enum.Enum):
    """The state of a sandbox as a provider observes it."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """The data that a provider needs to start a sandbox.

    ``session_key`` authenticates requests to the engine's API. ``secret_key`` encrypts the engine's files and must be
    the same for all runs of the sandbox. ``gateway_url`` is the URL at which the sandbox reaches this
    server. ``policy`` contains the sandbox's network rules; without it, the sandbox reaches no host.
    """

    sandbox_id: UUID
    session_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    gateway_url: str
    policy: Policy = REFUSE_ALL


@dataclass(frozen=True, slots=True)
class Observed:
    """The current state of a sandbox.

    ``workspace`` is the path of the project's folder inside the sandbox. ``detail`` is a sentence for the sandbox's
    owner.
    """

    state: State
    workspace: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Wall:
    """One of the walls between a sandbox and the machine: its name, and one or two sentences for people."""

    name: str
    in_force: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of each sandbox; 0 means that no limit is enforced. Threads count as processes."""

    memory_bytes: int = 0
    processes: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """The resources that a running sandbox used at a time. Threads are not counted."""

    at: datetime
    memory_bytes: int
    processes: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class Isolation:
    """The isolation of a provider's sandboxes from the machine and from each other, in words for people.

    ``word`` is for a label and ``meaning`` explains it in one or two sentences. ``is_isolated`` is true only if the
    walls were tested. ``cause`` and ``remedy`` say why no sandbox can start on this machine and what an administrator
    must do; both are empty if sandboxes can start.
    """

    word: str
    meaning: str
    is_isolated: bool
    walls: tuple[Wall, ...] = ()
    limits: Limits = Limits()
    cause: str = ""
    remedy: str = ""


class SandboxUnavailable(Problem):
    """The provider cannot start this sandbox now. The detail says what to do."""

    status = 503
    code = "sandbox-unavailable"
    sentence = "A sandbox cannot be started now. Try again later."
    is_permanent: ClassVar[bool] = False
    """Whether a retry cannot succeed before a person changes something."""


class SandboxImpossible(SandboxUnavailable):
    """The sandbox cannot be started until a person changes something, so it is not retried."""

    code = "sandbox-impossible"
    is_permanent = True


class SandboxNotYet(SandboxUnavailable):
    """A requirement of the sandbox, such as the engine, is being installed. Retry later.

    ``extra["percent"]`` is the share of the installation that is done, from 0 to 99, or None.
    """

    code = "sandbox-not-yet"


class SandboxProvider(Protocol):
    """The interface of a provider. Every method is safe to repeat, from any process of this server."""

    def start(self, spec: SandboxSpec) -> Handle:
        """Start a sandbox and return its handle, without waiting until the engine is ready (see ``inspect``).

        If the sandbox is running already, return its handle, so that a caller can retry if it died before it stored the
        handle. The data of an earlier run is kept and used. Raise ``SandboxUnavailable``.
        """
        ...

    def find(self, sandbox_id: UUID) -> Handle:
        """Return the handle of the sandbox with this id, or ``{}`` if no such sandbox was started.

        It is the handle of the newest run. Use it if the caller of ``start`` may have died before it stored the handle.
        """
        ...

    def inspect(self, handle: Handle) -> Observed:
        """Return the current state within about a second. If the sandbox no longer exists, the state is ``MISSING``."""
        ...

    def stop(self, handle: Handle, *, grace_seconds: float) -> None:
        """End all processes of the sandbox and wait for their end. The data is kept. Safe to repeat.

        The engine, which waits for a running tool, has ``grace_seconds`` to finish. Then it is killed. Do nothing if
        the sandbox was started again after the run of the handle; ``find`` returns the handle of the newest run.
        """
        ...

    def resume(self, spec: SandboxSpec, handle: Handle) -> Handle:
        """Start a stopped sandbox again with its data, like ``start``. Use the returned handle from then on."""
        ...

    def destroy(self, handle: Handle) -> None:
        """End the sandbox and delete its data permanently. Safe to repeat."""
        ...

    def dial(self, handle: Handle, port: int = ENGINE_PORT) -> socket.socket:
        """Return a new stream socket, connected to ``port`` of 127.0.0.1 inside the sandbox, and blocking.

        The caller closes the socket. Raise ``ConnectionError`` if the sandbox does not run or nothing in it listens on
        the port, and ``TimeoutError`` after ``DIAL_SECONDS``. Both are ``OSError``.
        """
        ...

    def describe(self, handle: Handle | None = None) -> Isolation:
        """Return the isolation that is in force for new sandboxes or, with a handle, for that sandbox's current run.

        The first call of a process may take some seconds. The texts contain no secret, address or path of a sandbox.
        """
        ...

    def read_usage(self, handle: Handle) -> Usage | None:
        """Return the newest measurement of a running sandbox.

        Return None if the sandbox does not run, was not measured yet, or is not measured by this provider.
        """
        ...

    def gateway_url(self) -> str:
        """Return the URL at which the sandboxes of this provider reach this server, without a slash at the end."""
        ...

    def set_policy(self, handle: Handle, policy: Policy) -> None:
        """Replace the network rules of a started sandbox. New connections follow them at once. Safe to repeat.

        Do nothing if the provider does not control the network of its sandboxes.
        """
        ...

    def explain_no_open_network(self) -> str:
        """Return why a sandbox cannot have the network profile ``open`` and what to do, or an empty text if it can."""
        ...

    def read_decisions(self, handle: Handle, position: str) -> tuple[list[dict[str, Any]], str]:
        """Return up to 1,000 decisions of the sandbox's proxy after a position, oldest first, and the new position.

        A position is an opaque text; the empty text is the beginning. A decision is a dict with the keys ``at``,
        ``host``, ``port``, ``address``, ``allowed``, ``reason``, ``protocol`` and, if it stands for more than one,
        ``count``. Cheap if there is nothing new. Return no decisions and the same position if the provider does not
        control the network of its sandboxes, or if the sandbox's files are on another machine.
        """
        ...


_PROVIDERS = {
    "bubblewrap": "conversations.sandboxes.bubblewrap.provider:BubblewrapProvider",
    "process": "conversations.sandboxes.process:ProcessProvider",
    "seatbelt": "conversations.sandboxes.seatbelt.provider:SeatbeltProvider",
}
_instances: dict[str, SandboxProvider] = {}


def get_provider(name: str) -> SandboxProvider:
    """Return the provider with this name. Raise ``SandboxImpossible`` if no provider has this name."""
    if name not in _instances:
        if name not in _PROVIDERS:
            raise SandboxImpossible(
                f"There is no sandbox provider named {name}. Check SANDBOX_PROVIDER."
            )
        module, _, factory = _PROVIDERS[name].partition(":")
        _instances[name] = getattr(import_module(module), factory)()
    return _instances[name]
