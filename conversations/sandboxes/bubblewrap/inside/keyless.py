"""Keep the engine's session key out of the environment of programs that the engine starts.

The engine takes its key from a file, but publishes it as ``OH_SESSION_API_KEYS_0`` in its own environment. It removes
the variable for most programs, though not for git, and git starts any program that the agent names in a workspace's
settings (``core.fsmonitor``). The engine imports this file by ``--import-modules keyless``, before its API.

Without a key, the engine accepts every request. It starts without a key if the file is missing, so this module refuses
that.

Without the variable, the engine's tool ``start_child_conversation`` and its refresh of managed model keys do not work.
"""

import importlib
from typing import Any

_config = importlib.import_module("openhands.agent_server.config")


class NoSessionKey(RuntimeError):
    """The engine's configuration has no session key."""


def _publish_nothing(_config: Any) -> None:
    """Take the place of the function that sets the variable."""


# Older engines have no such function, and publish nothing.
if hasattr(_config, "export_session_api_key"):
    _config.export_session_api_key = _publish_nothing  # type: ignore[attr-defined]

if not _config.load_config().session_api_keys:
    raise NoSessionKey(
        "The engine does not start, because it has no session key and would accept every request. Write the file"
        " that OPENHANDS_AGENT_SERVER_CONFIG_PATH names before the engine starts."
    )
