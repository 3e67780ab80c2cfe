"""The interface of sandbox providers, whatever technology runs the sandboxes.

A provider never touches the database. It receives a ``SandboxSpec`` and returns a ``Handle``, the JSON that
is stored to find the sandbox again; ``inspect`` returns the sandbox's current state.
"""

import enum
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, Protocol, TypeAlias
from uuid import UUID

from lib.problems import Problem

Handle: TypeAlias = dict[str, Any]
"""The JSON by which a provider finds a sandbox again. It holds no secrets, and only the provider reads it."""


class State(str, enum.Enum):
    """The state of a sandbox as a provider observes it."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """The data that a provider receives about a sandbox that it starts.

    ``session_key`` authenticates calls to the engine's API. ``secret_key`` encrypts the engine's files and
    must be the same for all runs of the sandbox. ``gateway_url`` is the address at which the sandbox
    reaches this server.
    """

    sandbox_id: UUID
    session_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    gateway_url: str


@dataclass(frozen=True, slots=True)
class Observed:
    """The current state of a sandbox. ``base_url`` is empty unless an engine may respond there (starting, running).

    ``workspace`` is the path of the project's folder inside the sandbox; ``detail`` is a sentence for the
    sandbox's owner.
    """

    state: State
    base_url: str = ""
    workspace: str = ""
    detail: str = ""


class SandboxUnavailable(Problem):
    """The provider cannot start this sandbox now; the sentence says what to do."""

    status = 503
    code = "sandbox-unavailable"
    sentence = "A sandbox cannot be started now. Try again later."
    is_permanent: ClassVar[bool] = False
    """Whether retries are useless because a person must change something first."""


class SandboxImpossible(SandboxUnavailable):
    """Sandboxes cannot be started until an operator changes something, so retries are useless."""

    code = "sandbox-impossible"
    is_permanent = True


class SandboxNotYet(SandboxUnavailable):
    """A requirement of sandboxes, such as the engine, is being installed; a later retry will succeed."""

    code = "sandbox-not-yet"


class SandboxProvider(Protocol):
    """The interface of a provider. Every call is safe to repeat, from any process of this server."""

    def start(self, spec: SandboxSpec) -> Handle:
        """Start a sandbox and return its handle without waiting for its engine; ``inspect`` shows when it is ready.

        Idempotent per sandbox id: the handle of a running sandbox is returned, also if an earlier caller
        died before it could store the handle. Data of an earlier run is kept and used. Raises
        ``SandboxUnavailable``.
        """
        ...

    def find(self, sandbox_id: UUID) -> Handle:
        """Return the handle of a sandbox whose ``start`` was never recorded; ``{}`` if there is no such sandbox."""
        ...

    def inspect(self, handle: Handle) -> Observed:
        """Return the current state. Takes about a second at most; never raises for a sandbox that is gone."""
        ...

    def stop(self, handle: Handle, *, grace_seconds: float) -> None:
        """End all processes of the sandbox, wait for their end, and keep the data. Safe to repeat.

        The engine gets ``grace_seconds`` to finish (it waits for a running tool) and is then killed.
        """
        ...

    def resume(self, spec: SandboxSpec, handle: Handle) -> Handle:
        """Start a stopped sandbox again with its data; its address may change. Idempotent like ``start``."""
        ...

    def destroy(self, handle: Handle) -> None:
        """End the sandbox and delete its data permanently. Idempotent."""
        ...


_PROVIDERS = {"process": "conversations.sandboxes.process:ProcessProvider"}
_instances: dict[str, SandboxProvider] = {}


def get_provider(name: str) -> SandboxProvider:
    """Return the provider with this name. Raises ``SandboxImpossible`` if there is no such provider."""
    if name not in _instances:
        if name not in _PROVIDERS:
            raise SandboxImpossible(
                f"There is no sandbox provider named {name}. Check SANDBOX_PROVIDER."
            )
        module, _, factory = _PROVIDERS[name].partition(":")
        _instances[name] = getattr(import_module(module), factory)()
    return _instances[name]
