"""Prompts that this server writes on behalf of V0 clients.

They are the first message for a suggested task, the first message for a new microagent (a file with instructions for
agents), and a prompt that asks the agent to record the lessons of a conversation.
"""

from typing import Any, Final

# By V0's ``task_type``.
TASKS: Final = {
    "MERGE_CONFLICTS": "Resolve the merge conflicts of pull request #{number} ({title}) in {repo}, and push.",
    "FAILING_CHECKS": "Make the failing checks of pull request #{number} ({title}) in {repo} pass, and push.",
    "UNRESOLVED_COMMENTS": "Address the unresolved review comments of pull request #{number} ({title}) in "
    "{repo}: change the code where a comment asks for it, and push.",
    "OPEN_ISSUE": "Investigate issue #{number} ({title}) in {repo}, fix it on a new branch, and open a "
    "draft pull request.",
    "OPEN_PR": "Complete pull request #{number} ({title}) in {repo}: find out what is missing, and add it.",
    "CREATE_MICROAGENT": "Read {repo} and write down what an agent should know about it in "
    ".openhands/microagents/repo.md, on a new branch, with a draft pull request.",
}
_OTHER: Final = "Work on #{number} ({title}) in {repo}."


def build_task_message(task: dict[str, Any]) -> str:
    """Return the first message for a suggested task (validated by ``SuggestedTaskSerializer``)."""
    text = TASKS.get(task["task_type"], _OTHER)
    return text.format(number=task["issue_number"], title=task["title"], repo=task["repo"])


def build_microagent_message(microagent: dict[str, Any]) -> str:
    """Return the first message for a new microagent when the user wrote no message."""
    about = f" about {microagent['title']}" if microagent.get("title") else ""
    repo = microagent["repo"]
    return f"Write down what an agent should know{about} in {repo} as a file in .openhands/microagents."


def prepend_instructions(message: str, instructions: str) -> str:
    """Return a first message with the request's ``conversation_instructions`` before it."""
    return f"{instructions.strip()}\n\n{message}".strip() if instructions.strip() else message


def build_remember_prompt(events: list[dict[str, Any]]) -> str:
    """Return a prompt that asks the agent to record the lessons of these V0 events.

    It quotes the last 20 messages, 2,000 characters of each. No model is called.
    """
    lines = []
    for event in events:
        if event.get("action") == "message":
            speaker = "The user said" if event["source"] == "user" else "The agent said"
            lines.append(f"{speaker}: {event['args']['content']}")
        elif event.get("action") == "finish":
            lines.append(f"The agent finished: {event['args']['final_thought']}")
    exchange = "\n".join(line[:2_000] for line in lines[-20:])
    return (
        "Add what is worth remembering from the following exchange to .openhands/microagents/repo.md, so that "
        f"it helps with later work in this repository. Keep it short and general.\n\n{exchange}"
    )
