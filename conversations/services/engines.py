"""Connections to the engines of sandboxes. Every service reaches an engine through its sandbox's provider."""

import socket
from functools import partial

from conversations.engine.client import EngineClient
from conversations.engine.transport import Dial
from conversations.models import Sandbox
from conversations.sandboxes.provider import Handle, SandboxProvider, get_provider
from lib.connections import release_connection


def open_engine(sandbox: Sandbox) -> EngineClient:
    """Return a client for the engine of a sandbox. No connection is made before its first call.

    Raise ``SandboxImpossible`` if this server does not have the sandbox's provider.
    """
    return EngineClient(find_dial(sandbox), sandbox.session_key())


def find_dial(sandbox: Sandbox) -> Dial:
    """Return the function that connects to the engine of a sandbox, in the run that the row describes now.

    Raise ``SandboxImpossible`` if this server does not have the sandbox's provider.
    """
    return partial(_dial, get_provider(sandbox.provider), sandbox.handle)


def _dial(provider: SandboxProvider, handle: Handle) -> socket.socket:
    # Each request to an engine dials. An engine may answer after minutes or never, and there are fewer database
    # connections than threads.
    release_connection()
    return provider.dial(handle)
