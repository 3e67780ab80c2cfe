"""The environment variables of an engine, and the address at which it reaches this server, for all providers."""

from urllib.parse import urlsplit

from django.conf import settings

from conversations.sandboxes.egress.policy import GATEWAY_NAME
from conversations.sandboxes.provider import SandboxImpossible, SandboxNotYet, SandboxSpec
from lib import engine_state
from lib.addresses import literal_address

MODULE = "openhands.agent_server"
"""The Python module that is the engine's program."""
FOLDERS = ("project", "home", "conversations", "bash_events", "worktrees")
"""The folders with a sandbox's data, in the sandbox's folder."""


NOT_INSTALLED = (
    "The agent engine is not installed on this server, so its agents cannot start. An administrator installs it with "
    "`manage.py install_engine`; `manage.py doctor` shows the cause."
)
"""A sentence for users. It contains no path and no cause, because members of all organizations may read it."""


def check_engine() -> None:
    """Raise ``SandboxNotYet`` while the engine is being installed, and ``SandboxImpossible`` if it is not installed."""
    engine = check_installation()
    if not engine.is_ready:
        raise SandboxImpossible(NOT_INSTALLED)


def check_installation() -> engine_state.Status:
    """Return the state of the engine. Raise ``SandboxNotYet`` with the progress while it is being installed."""
    engine = engine_state.status()
    if engine.is_installing:
        percent = engine.progress.percent if engine.progress else None
        raise SandboxNotYet(engine.detail, percent=percent)
    return engine


def build_engine_environment(spec: SandboxSpec, *, root: str, run: str) -> dict[str, str]:
    """Return the engine's environment variables, without its keys and without those that a provider must choose.

    ``root`` is the path of the folder with the sandbox's data, as the engine sees it. No variable of this server is
    inherited, so no secret, proxy or setting of this server reaches the agent.
    """
    return {
        "OH_SANDBOX_ID": spec.sandbox_id.hex,
        "OH_SANDBOX_RUN": run,
        "OH_CONVERSATIONS_PATH": f"{root}/conversations",
        "OH_BASH_EVENTS_DIR": f"{root}/bash_events",
        "OH_WORKSPACE_PATH": f"{root}/project",
        "OH_CONVERSATION_WORKTREE_ROOT": f"{root}/worktrees",
        "OH_LEASE_TTL_SECONDS": "0",  # a lease would hide the conversation after a crash
        "OH_CONVERSATION_IDLE_TTL_SECONDS_IS_NONE": "1",  # eviction breaks pending confirmations
        "OH_ENABLE_VSCODE": "0",
        "HOME": f"{root}/home",
        "TZ": "UTC",  # the engine's timestamps are naive local time
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "GIT_TERMINAL_PROMPT": "0",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # otherwise fetched from the internet
        "LOG_JSON": "1",
        "PYTHONUNBUFFERED": "1",
        "OPENHANDS_SUPPRESS_BANNER": "1",
        "ANONYMIZED_TELEMETRY": "false",
        "DO_NOT_TRACK": "1",
    }


def gateway_url_behind_proxy() -> str:
    """Return the URL at which a sandbox with a proxy reaches this server.

    It is ``GATEWAY_URL``, or a name that only the proxy knows if ``GATEWAY_URL`` is a loopback address, because a
    sandbox has a loopback interface of its own.
    """
    url: str = settings.GATEWAY_URL
    host = urlsplit(url).hostname or ""
    address = literal_address(host)
    is_local = host == "localhost" or (address is not None and address.is_loopback)
    return f"http://{GATEWAY_NAME}" if is_local else url
