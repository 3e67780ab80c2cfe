"""What V0 is told of a conversation's state: one table from our record, for REST rows and for the socket."""

from typing import Any, Final

from compat.v0.translate import AGENT_STATES

STATUSES: Final = {
    "starting": "STARTING",
    "running": "RUNNING",
    "paused": "STOPPED",
    "stopped": "STOPPED",
    "failed": "ERROR",
}
_PLACES: Final = {
    "starting": "loading",
    "paused": "stopped",
    "stopped": "stopped",
    "failed": "error",
}
_PHASES: Final = {
    "WORKING": "STATUS$STARTING_RUNTIME",
    "WAITING_FOR_SANDBOX": "STATUS$STARTING_RUNTIME",
    "PREPARING_REPOSITORY": "STATUS$SETTING_UP_WORKSPACE",
    "RUNNING_SETUP_SCRIPT": "STATUS$SETTING_UP_WORKSPACE",
    "SETTING_UP_GIT_HOOKS": "STATUS$SETTING_UP_GIT_HOOKS",
    "SETTING_UP_SKILLS": "STATUS$SETTING_UP_WORKSPACE",
    "STARTING_CONVERSATION": "STATUS$RUNTIME_STARTED",
}


def agent_state(record: dict[str, Any]) -> str:
    """The agent's state in V0's words, of a record (``conversations.log.records``)."""
    place = _PLACES.get(record["status"])
    return place or AGENT_STATES.get(record["execution_status"], "loading")


def runtime_status(record: dict[str, Any]) -> str:
    """The state of the place in V0's words."""
    status = record["status"]
    if status == "starting":
        phase = (record.get("start_task") or {}).get("phase", "")
        return _PHASES.get(phase, "STATUS$STARTING_RUNTIME")
    if status in ("paused", "stopped"):
        return "STATUS$STOPPED"
    failed = status == "failed" or record["execution_status"] in ("error", "stuck")
    return "STATUS$ERROR" if failed else "STATUS$READY"
