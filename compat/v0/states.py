"""The mapping of a conversation's state to V0's states, for REST responses and the socket."""

from typing import Any, Final

from compat.v0.translation import AGENT_STATES

# By this server's status of a conversation.
STATUSES: Final = {
    "starting": "STARTING",
    "running": "RUNNING",
    "paused": "STOPPED",
    "stopped": "STOPPED",
    "failed": "ERROR",
}
_SANDBOX_STATES: Final = {
    "starting": "loading",
    "paused": "stopped",
    "stopped": "stopped",
    "failed": "error",
}
# V0's runtime status by the phase of a start task.
_PHASES: Final = {
    "WORKING": "STATUS$STARTING_RUNTIME",
    "WAITING_FOR_SANDBOX": "STATUS$STARTING_RUNTIME",
    "PREPARING_REPOSITORY": "STATUS$SETTING_UP_WORKSPACE",
    "RUNNING_SETUP_SCRIPT": "STATUS$SETTING_UP_WORKSPACE",
    "SETTING_UP_GIT_HOOKS": "STATUS$SETTING_UP_GIT_HOOKS",
    "SETTING_UP_SKILLS": "STATUS$SETTING_UP_WORKSPACE",
    "STARTING_CONVERSATION": "STATUS$RUNTIME_STARTED",
}


def map_agent_state(record: dict[str, Any]) -> str:
    """Return V0's ``agent_state`` for a conversation's record (``conversations.log.records``)."""
    # While the sandbox does not run, the agent's last state is out of date.
    sandbox_state = _SANDBOX_STATES.get(record["status"])
    return sandbox_state or AGENT_STATES.get(record["execution_status"], "loading")


def map_runtime_status(record: dict[str, Any]) -> str:
    """Return V0's ``runtime_status`` for a conversation's record.

    The web client opens its V0 socket only if ``status`` is ``RUNNING`` and ``runtime_status`` is not
    ``STATUS$STOPPED``.
    """
    status = record["status"]
    if status == "starting":
        phase = (record.get("start_task") or {}).get("phase", "")
        return _PHASES.get(phase, "STATUS$STARTING_RUNTIME")
    if status in ("paused", "stopped"):
        return "STATUS$STOPPED"
    failed = status == "failed" or record["execution_status"] in ("error", "stuck")
    return "STATUS$ERROR" if failed else "STATUS$READY"
