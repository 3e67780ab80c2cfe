"""The rules of a sandbox's network profile, and ``policy.json``, which the server writes and the keeper reads."""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from conversations.sandboxes.egress.hosts import BadHost, HostSet, normalize_host
from lib.addresses import Address, embedded_address, is_public, is_reserved

GATEWAY_NAME = "openhands.internal"
"""The name by which a sandbox calls this server over plain HTTP. Only the proxy knows it."""
GATEWAY_PORT = 80


class BadPolicy(ValueError):
    """A policy is not valid. The message is a sentence that names the field."""


def _default_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise BadPolicy(f"{name} must be a list of texts.")
    return tuple(value)


class Profile(StrEnum):
    """The network profiles of a conversation."""

    PUBLIC = "public"
    """Any host whose addresses are all public."""
    LIST = "list"
    """Only the hosts of the list ``hosts``."""
    NONE = "none"
    """Only the gateway."""
    OPEN = "open"
    """Any protocol, around the proxy. Private networks are reachable too (see ``bubblewrap.open_network``)."""


class Reason(StrEnum):
    """The reason of a decision, as in the decision log and in the header ``X-OpenHands-Egress``."""

    GATEWAY = "gateway"
    PUBLIC = "public"
    LISTED = "listed"
    PRIVATE_NAMED = "private-named"
    NOT_LISTED = "not-listed"
    DENIED = "denied"
    PRIVATE_ADDRESS = "private-address"
    PROFILE_NONE = "profile-none"
    UNRESOLVABLE = "unresolvable"
    UNREACHABLE = "unreachable"
    MALFORMED = "malformed"
    OPEN = "open"
    """The open network was started (host ``*``), or a private address is allowed because the network is open."""


@dataclass(frozen=True)
class Decision:
    """The answer of a policy for one destination."""

    allowed: bool
    reason: Reason


@dataclass(frozen=True)
class Gateway:
    """The model gateway and API of this server, as the proxy reaches it."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """The value of the header ``Host``, without the default port of the scheme."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _default_port(self.scheme) else f"{host}:{self.port}"


@dataclass(frozen=True)
class Policy:
    """The network rules of one sandbox. Patterns are normalized; a bad field raises ``BadPolicy``.

    ``hosts`` and ``denied`` contain names, patterns such as ``*.example.com`` and addresses, ``denied`` also CIDR
    blocks. ``private`` contains names, patterns, addresses and CIDR blocks that may be private or loopback. ``gateway``
    is a URL, of which scheme, host and port count, or empty.
    """

    profile: Profile
    hosts: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    gateway: str = ""

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "profile", Profile(self.profile))
        except ValueError as error:
            raise BadPolicy(f"profile must be one of {', '.join(Profile)}.") from error
        for name in ("hosts", "denied", "private"):
            patterns = HostSet.of(_texts(name, getattr(self, name)), blocks=name != "hosts")
            object.__setattr__(self, name, patterns.patterns)
        _ = self.gateway_target  # Raises BadPolicy for a bad URL.

    @cached_property
    def gateway_target(self) -> Gateway | None:
        """The gateway's scheme, host and port, or None if the policy has no gateway."""
        if not self.gateway:
            return None
        try:
            parts = urlsplit(self.gateway)
            host, port = normalize_host(parts.hostname or ""), parts.port
        except ValueError as error:
            raise BadPolicy(f"gateway is not a valid URL: {self.gateway!r}.") from error
        if parts.scheme not in ("http", "https") or port == 0:
            raise BadPolicy("gateway must be a URL that begins with http:// or https://.")
        return Gateway(parts.scheme, host, port or _default_port(parts.scheme))

    @cached_property
    def _hosts(self) -> HostSet:
        return HostSet(self.hosts)

    @cached_property
    def _denied(self) -> HostSet:
        return HostSet(self.denied)

    @cached_property
    def _private(self) -> HostSet:
        return HostSet(self.private)

    def is_gateway(self, host: str, port: int) -> bool:
        """Return whether a normal host and port are the gateway, by its own address or by ``openhands.internal:80``."""
        gateway = self.gateway_target
        own = gateway is not None and (host, port) == (gateway.host, gateway.port)
        return own or (gateway is not None and (host, port) == (GATEWAY_NAME, GATEWAY_PORT))

    def decide(self, host: str, port: int) -> Decision:
        """Decide about a host before its name is resolved, so that a refused name never reaches a name server.

        An allowed host still needs ``decide_addresses``. Raise ``BadHost`` if the host is not valid.
        """
        host = normalize_host(host)
        if self.is_gateway(host, port):
            return Decision(True, Reason.GATEWAY)
        if host == GATEWAY_NAME:
            return Decision(False, Reason.UNRESOLVABLE)
        if self.profile is Profile.NONE:
            return Decision(False, Reason.PROFILE_NONE)
        if self._denied.has_host(host):
            return Decision(False, Reason.DENIED)
        if self.profile is Profile.LIST:
            listed = self._hosts.has_host(host)
            return Decision(listed, Reason.LISTED if listed else Reason.NOT_LISTED)
        return Decision(True, Reason.PUBLIC)

    def decide_addresses(
        self,
        host: str,
        port: int,
        addresses: Iterable[Address],
        *,
        is_own: Callable[[Address], bool] = lambda _: False,
    ) -> Decision:
        """Decide about a host and all the addresses of its name. One address that is not allowed refuses the host.

        ``is_own`` says whether an address belongs to this machine; such an address is private even if it is public.
        """
        is_open = self.profile is Profile.OPEN
        decision = self.decide(host, port)
        if not decision.allowed or decision.reason is Reason.GATEWAY:
            return decision
        is_named = self._private.has_host(normalize_host(host))
        for address in addresses:
            reason = Reason.PRIVATE_NAMED
            if self._denied.has_embedded(address):
                return Decision(False, Reason.DENIED)
            if is_reserved(address):
                is_allowed = self._private.has_reserved(address)
            elif is_public(address) and not is_own(address):
                continue
            else:
                is_allowed = is_named or self._private.has_address(address)
                # The proxy connects from the host, whose loopback no direct connection of the sandbox reaches.
                if not is_allowed and is_open and not is_own(address):
                    is_allowed, reason = not embedded_address(address).is_loopback, Reason.OPEN
            if not is_allowed:
                return Decision(False, Reason.PRIVATE_ADDRESS)
            decision = Decision(True, reason)
        return decision

    @classmethod
    def from_json(cls, text: str | bytes) -> "Policy":
        """Parse the content of ``policy.json``. Unknown keys are ignored. Raise ``BadPolicy`` if it is not valid."""
        try:
            content = json.loads(text)
        except ValueError as error:
            raise BadPolicy("The policy is not JSON.") from error
        if not isinstance(content, dict) or "profile" not in content:
            raise BadPolicy("The policy is not a JSON object with a profile.")
        gateway = content.get("gateway", "")
        if not isinstance(gateway, str):
            raise BadPolicy("gateway must be a text.")
        lists = {
            name: _texts(name, content.get(name, [])) for name in ("hosts", "denied", "private")
        }
        return cls(profile=content["profile"], gateway=gateway, **lists)

    def to_json(self) -> str:
        """Return the content of ``policy.json``, with a line feed at the end."""
        content = {
            "profile": self.profile.value,
            "hosts": list(self.hosts),
            "denied": list(self.denied),
            "private": list(self.private),
            "gateway": self.gateway,
        }
        return json.dumps(content, indent=1) + "\n"


REFUSE_ALL = Policy(profile=Profile.NONE)
"""The policy without any allowed destination."""


def write_policy(path: Path, policy: Policy) -> None:
    """Replace ``policy.json`` atomically, readable only by its owner. Safe to repeat."""
    number, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(number, "w") as file:
            file.write(policy.to_json())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


class PolicyFile:
    """The policy of a file, read again when the file changes: a callable for ``EgressProxy``.

    If the file cannot be read, the last good policy stays in force; before the first good one, everything is refused.
    ``error`` is the sentence about the last failure, or empty.
    """

    def __init__(self, path: Path) -> None:
        self.error = ""
        self._path = path
        self._policy = REFUSE_ALL
        self._seen: tuple[int, int, int] | None = None

    def __call__(self) -> Policy:
        """Return the policy in force."""
        try:
            status = self._path.stat()
            signature = (status.st_mtime_ns, status.st_size, status.st_ino)
            if signature != self._seen:
                self._policy, self.error = Policy.from_json(self._path.read_bytes()), ""
                self._seen = signature
        except OSError as error:
            self.error = f"{self._path} cannot be read: {error.strerror}."
            self._seen = None
        except ValueError as error:
            self.error, self._seen = f"{self._path} is not valid: {error}", signature
        return self._policy


__all__ = [
    "GATEWAY_NAME",
    "GATEWAY_PORT",
    "REFUSE_ALL",
    "BadHost",
    "BadPolicy",
    "Decision",
    "Gateway",
    "Policy",
    "PolicyFile",
    "Profile",
    "Reason",
    "write_policy",
]
