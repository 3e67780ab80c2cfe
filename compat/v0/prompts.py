"""Texts that V0 clients ask for and people never typed: first messages of tasks, and what to remember."""

from typing import Any, Final

TASKS: Final = {
    "MERGE_CONFLICTS": "Resolve the merge conflicts of pull request #{number} ({title}) in {repo}, and push.",
    "FAILING_CHECKS": "Make the failing checks of pull request #{number} ({title}) in {repo} pass, and push.",
    "UNRESOLVED_COMMENTS": "Answer the unresolved review comments of pull request #{number} ({title}) in {repo} "
    "with changes where they ask for them, and push.",
    "OPEN_ISSUE": "Look into issue #{number} ({title}) in {repo}, fix it on a branch of its own, and open a "
    "draft pull request.",
    "OPEN_PR": "Bring pull request #{number} ({title}) in {repo} to an end: see what is missing and do it.",
    "CREATE_MICROAGENT": "Read {repo} and write down what an agent should know of it in "
    ".openhands/microagents/repo.md, on a branch of its own, with a draft pull request.",
}
_OTHER: Final = "Work on #{number} ({title}) in {repo}."


def of_task(task: dict[str, Any]) -> str:
    """The first message of a suggested task."""
    text = TASKS.get(task["task_type"], _OTHER)
    return text.format(number=task["issue_number"], title=task["title"], repo=task["repo"])


def of_microagent(wanted: dict[str, Any]) -> str:
    """The first message where knowledge is to be written down and the person gave none."""
    about = f" about {wanted['title']}" if wanted.get("title") else ""
    return f"Write down what an agent should know{about} in {wanted['repo']} as a file in .openhands/microagents."


def with_instructions(message: str, instructions: str) -> str:
    """A first message behind the instructions that came with it."""
    return f"{instructions.strip()}\n\n{message}".strip() if instructions.strip() else message


def to_remember(events: list[dict[str, Any]]) -> str:
    """A prompt by which the agent writes down what these V0 events taught, made of what was said in them."""
    said = []
    for event in events:
        if event.get("action") == "message":
            who = "The user said" if event["source"] == "user" else "The agent said"
            said.append(f"{who}: {event['args']['content']}")
        elif event.get("action") == "finish":
            said.append(f"The agent finished: {event['args']['final_thought']}")
    talk = "\n".join(line[:2_000] for line in said[-20:])
    return (
        "Add what is worth remembering from the following exchange to .openhands/microagents/repo.md, so that it "
        f"holds for later work in this repository. Keep it short and general.\n\n{talk}"
    )
