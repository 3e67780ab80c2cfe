"""Checks of what a program asks of the engine: each option is applied or refused by its name, and none is ignored.

A value that asks for nothing (null, false, an empty text, list or object) is accepted for every field, because the
engine's clients send all fields, and later versions of them send more.
"""

import re
from collections.abc import Mapping
from typing import Any

from accounts.settings.choices import ConfirmationPolicy, SecurityAnalyzer
from compat.v1.fields import REASONS, check_fields, refuse
from compat.v1.responses import WORKSPACE
from conversations.engine.payloads import TOOLS, build_analyzer

MAX_ITERATIONS = 10_000
"""The maximum of the setting ``max_iterations``."""
TAGS_MAX = 50
TAG_LENGTH = 256
_TAG_NAME = re.compile(r"[a-z0-9]{1,256}")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""Characters that PostgreSQL cannot store."""
RISKS = ("LOW", "MEDIUM", "HIGH")
ANALYZERS = {
    kind["kind"]: name.value for name in SecurityAnalyzer if (kind := build_analyzer(name.value))
}
WORKSPACES = (WORKSPACE, f"{WORKSPACE}/", "/workspace", "/workspace/", "workspace/project")
"""Spellings of ``working_dir`` for the workspace. The last one is the default of the engine's ``LocalWorkspace``."""
REPLACED = frozenset({"llm", "condenser"})
"""Fields of an agent that this server replaces by the model and the condenser of the caller's settings (see docs)."""
AGENT_DEFAULTS: dict[str, Any] = {
    "kind": "Agent",
    "agent_kind": "openhands",
    "include_default_tools": ["FinishTool", "ThinkTool"],
    "system_prompt_filename": "system_prompt.j2",
    "security_policy_filename": "security_policy.j2",
    "tool_concurrency_limit": 1,
}
"""Values with which the engine's clients say nothing, in openhands-sdk 1.58.2."""
_PROMPT_ARGUMENTS = {"llm_security_analyzer", "cli_mode"}
_HANDLED = frozenset(
    {
        "agent",
        "agent_settings",
        "workspace",
        "conversation_id",
        "parent_conversation_id",
        "initial_message",
        "confirmation_policy",
        "security_analyzer",
        "max_iterations",
        "tags",
        # Names of Python modules in which the client finds its tools. The tools themselves are checked.
        "tool_module_qualnames",
    }
)
_DEFAULTS: dict[str, Any] = {
    "stuck_detection": True,
    # The title is the message's first line, as with the engine's own fallback.
    "autotitle": True,
    "observability_span_name": "conversation",
}


def check_request(body: Mapping[str, Any]) -> None:
    """Raise ``Unprocessable`` if a ``StartConversationRequest`` asks for something that this server does not do."""
    check_fields(body, handled=_HANDLED, defaults=_DEFAULTS)
    workspace = body.get("workspace") or {}
    if not isinstance(workspace, dict):
        raise refuse("workspace", "Send an object with `working_dir`.")
    check_fields(workspace, handled=("kind", "working_dir"), prefix="workspace.")
    if workspace.get("working_dir") and workspace["working_dir"] not in WORKSPACES:
        raise refuse("workspace.working_dir", REASONS["working_dir"])
    for name in ("agent", "agent_settings"):
        _check_agent(body.get(name) or {}, name)


def _check_agent(agent: Any, name: str) -> None:
    if not isinstance(agent, dict):
        raise refuse(name, "Send an object.")
    handled = {*REPLACED, "tools", "system_prompt_kwargs", "agent_context"}
    check_fields(agent, handled=handled, defaults=AGENT_DEFAULTS, prefix=f"{name}.")
    context = agent.get("agent_context") or {}
    if not isinstance(context, dict) or any(
        value and not isinstance(value, bool) for value in context.values()
    ):
        raise refuse(f"{name}.agent_context", REASONS["agent_context"])
    arguments = agent.get("system_prompt_kwargs") or {}
    if not isinstance(arguments, dict) or set(arguments) - _PROMPT_ARGUMENTS:
        raise refuse(f"{name}.system_prompt_kwargs", REASONS["system_prompt"])


def parse_tools(body: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the tools that a checked request limits its agent to, or None for all tools.

    Raise ``Unprocessable`` for a tool that this server does not have, and for parameters of a tool.
    """
    source = next((n for n in ("agent", "agent_settings") if (body.get(n) or {}).get("tools")), "")
    if not source:
        return None
    names = []
    tools = body[source]["tools"]
    for tool in tools if isinstance(tools, list) else [tools]:
        name = tool.get("name") if isinstance(tool, dict) else None
        if name not in TOOLS:
            raise refuse(
                f"{source}.tools",
                f"There is no tool {str(name)[:80]!r} here. Use {', '.join(TOOLS)}.",
            )
        check_fields(tool, handled=("name",), prefix=f"{source}.tools.{name}.")
        names.append(str(name))
    # In the order of this server, so that equal sets are equal.
    return [name for name in TOOLS if name in names]


def parse_policy(policy: Any) -> str:
    """Return the ``ConfirmationPolicy`` for a policy of the engine: the same one or, if there is none, a stricter one.

    This server has ``ConfirmRisky`` only with the threshold ``HIGH`` and with questions about actions of unknown risk.
    A lower threshold becomes ``ALWAYS``. Raise ``Unprocessable`` if the policy is not known.
    """
    kind = policy.get("kind") if isinstance(policy, dict) else None
    if kind not in ("AlwaysConfirm", "NeverConfirm", "ConfirmRisky"):
        raise refuse(
            "confirmation_policy",
            "Send an object with the `kind` AlwaysConfirm, NeverConfirm or ConfirmRisky.",
        )
    is_risky = kind == "ConfirmRisky"
    options = ("threshold", "confirm_unknown") if is_risky else ()
    check_fields(policy, handled=("kind", *options), prefix="confirmation_policy.")
    if not is_risky:
        always = kind == "AlwaysConfirm"
        return (ConfirmationPolicy.ALWAYS if always else ConfirmationPolicy.NEVER).value
    threshold = policy.get("threshold", "HIGH")
    if threshold not in RISKS or not isinstance(policy.get("confirm_unknown", True), bool):
        raise refuse(
            "confirmation_policy",
            "Send LOW, MEDIUM or HIGH as `threshold`, and true or false as `confirm_unknown`.",
        )
    strict = threshold != "HIGH"
    return (ConfirmationPolicy.ALWAYS if strict else ConfirmationPolicy.RISKY).value


def parse_analyzer(analyzer: Any) -> str:
    """Return the ``SecurityAnalyzer`` for an analyzer of the engine. None means no analyzer.

    Raise ``Unprocessable`` if the analyzer is not known or has parameters.
    """
    if analyzer is None:
        return SecurityAnalyzer.NONE.value
    kind = analyzer.get("kind") if isinstance(analyzer, dict) else None
    if not isinstance(kind, str) or kind not in ANALYZERS:
        raise refuse(
            "security_analyzer",
            f"Send null, or an object with one of the kinds {', '.join(ANALYZERS)}.",
        )
    check_fields(analyzer, handled=("kind",), prefix="security_analyzer.")
    return ANALYZERS[kind]


def parse_iterations(value: Any) -> int | None:
    """Return the limit of steps, or None if none is set. Raise ``Unprocessable`` if it is not a number in range."""
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= MAX_ITERATIONS:
        raise refuse("max_iterations", f"Send a whole number from 1 to {MAX_ITERATIONS}.")
    return value


def parse_tags(value: Any) -> dict[str, str]:
    """Return tags: an object with names of lower-case letters and digits, and texts of up to 256 characters.

    The rules are those of ``ConversationTags`` in openhands-sdk 1.58.2. Raise ``Unprocessable`` otherwise.
    """
    if value is None:
        return {}
    is_valid = isinstance(value, dict) and len(value) <= TAGS_MAX
    for name, text in value.items() if is_valid else ():
        is_text = isinstance(text, str) and len(text) <= TAG_LENGTH
        is_valid &= bool(_TAG_NAME.fullmatch(name)) and is_text and not _UNSTORABLE.search(text)
    if not is_valid:
        raise refuse(
            "tags",
            f"Send an object of at most {TAGS_MAX} tags: names of lower-case letters a to z and digits, and texts of "
            f"up to {TAG_LENGTH} characters.",
        )
    return dict(value)
