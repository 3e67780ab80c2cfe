"""Checks for fields of a request that this server does not know: they are refused by name, never ignored."""

from collections.abc import Collection, Mapping
from typing import Any

from compat.v1.base import Unprocessable

REASONS = {
    "agent_profile_id": "This server has no agent profiles. Leave it out.",
    "secrets": "Store secrets in the settings of this server; its agents receive them.",
    "mcp_config": "Add MCP servers in the settings of this server; its agents use them.",
    "agent_context": "Put instructions into the first message.",
    "system_prompt": "Put instructions into the first message.",
    "working_dir": "Send /workspace/project, the only workspace of a sandbox.",
    "user_id": "Conversations belong to the user of the key. Leave it out.",
    "processors": "Clients cannot set callback processors on this server. Use webhooks instead.",
    "system_message_suffix": "This field is not supported. Put the instructions into the first message.",
    "agent_type": "This server has no planning agent. Use the default agent.",
}
"""The remedy, by the name of the field."""


def refuse(name: str, sentence: str) -> Unprocessable:
    """Return the exception that names a field and says what to do."""
    return Unprocessable(f"{name}: {sentence}", errors={name: [sentence]})


def check_fields(
    body: Mapping[str, Any],
    *,
    handled: Collection[str],
    defaults: Mapping[str, Any] | None = None,
    prefix: str = "",
) -> None:
    """Raise ``Unprocessable`` for a field that is not in ``handled`` and asks for something.

    Null, false, and empty texts, lists and objects ask for nothing, unless ``defaults`` has a value for the field.
    """
    known = defaults or {}
    for name, value in body.items():
        if name in handled:
            continue
        if name in known:
            is_nothing = value is None or (
                type(value) is type(known[name]) and value == known[name]
            )
        else:
            # ``is``, because 0 is a value.
            is_nothing = value is None or value is False or value in ("", [], {})
        if not is_nothing:
            sentence = "This server cannot do this for a conversation. Leave the field out."
            raise refuse(prefix + str(name)[:80], REASONS.get(name, sentence))
