"""What the rest of the system knows about sandboxes: one interface, whatever runs them.

A provider never touches the database. It is given a ``SandboxSpec`` and answers with a ``Handle``, the JSON
that we keep to find the sandbox again; ``inspect`` says what is there now.
"""

import enum
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, Protocol, TypeAlias
from uuid import UUID

from lib.problems import Problem

Handle: TypeAlias = dict[str, Any]
"""JSON that a provider needs to find a sandbox again; holds no secrets. Only the provider looks inside."""


class State(str, enum.Enum):
    """What a provider sees of a sandbox."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """Everything a provider may know of a sandbox that it starts.

    ``session_key`` opens the engine's API, ``secret_key`` seals the engine's files and must be the same in
    all its runs, ``gateway_url`` is where the sandbox reaches this server.
    """

    sandbox_id: UUID
    session_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    gateway_url: str


@dataclass(frozen=True, slots=True)
class Observed:
    """What is there now. ``base_url`` is empty unless an engine may answer there (starting, running).

    ``workspace`` is the project's folder as the engine sees it; ``detail`` a sentence for its owner.
    """

    state: State
    base_url: str = ""
    workspace: str = ""
    detail: str = ""


class SandboxUnavailable(Problem):
    """The provider cannot start this sandbox now; the sentence says what to do."""

    status = 503
    code = "sandbox-unavailable"
    sentence = "A sandbox cannot be started now."
    is_permanent: ClassVar[bool] = False
    """Whether a retry cannot help, because a person has to change something first."""


class SandboxImpossible(SandboxUnavailable):
    """Something is missing or forbidden here, so starting this sandbox again cannot work either."""

    code = "sandbox-impossible"
    is_permanent = True


class SandboxNotYet(SandboxUnavailable):
    """What sandboxes need is being made ready; asking again in a while will do."""

    code = "sandbox-not-yet"


class SandboxProvider(Protocol):
    """Starts, watches and ends sandboxes. Every call may be repeated, from any process of this server."""

    def start(self, spec: SandboxSpec) -> Handle:
        """Start a sandbox and return without waiting for its engine; ``inspect`` tells when it answers.

        Idempotent per sandbox id: the handle of one that runs already is returned, also after a caller
        that died before it could keep the first answer. Data of an earlier run is kept and used.
        Raises ``SandboxUnavailable``.
        """
        ...

    def find(self, sandbox_id: UUID) -> Handle:
        """The handle of a sandbox whose ``start`` was never recorded; ``{}`` where there is none."""
        ...

    def inspect(self, handle: Handle) -> Observed:
        """What is there now. Takes about a second at most; never raises for a sandbox that is gone."""
        ...

    def stop(self, handle: Handle, *, grace_seconds: float) -> None:
        """End everything that runs in the sandbox and keep its data. Waits; harmless when it is stopped.

        The engine gets ``grace_seconds`` to finish (it waits for a running tool), then it is killed.
        """
        ...

    def resume(self, spec: SandboxSpec, handle: Handle) -> Handle:
        """Start it again with the data it has; the address may be another. Idempotent like ``start``."""
        ...

    def destroy(self, handle: Handle) -> None:
        """End it and remove its data for good. Idempotent."""
        ...


_PROVIDERS = {"process": "conversations.sandboxes.process:ProcessProvider"}
_instances: dict[str, SandboxProvider] = {}


def get_provider(name: str) -> SandboxProvider:
    """Return the provider of that name. Raises ``SandboxImpossible`` where there is none."""
    if name not in _instances:
        if name not in _PROVIDERS:
            raise SandboxImpossible(f"There is no sandbox provider named {name}.")
        module, _, factory = _PROVIDERS[name].partition(":")
        _instances[name] = getattr(import_module(module), factory)()
    return _instances[name]
