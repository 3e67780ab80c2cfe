"""What happens in a fresh sandbox before the agent starts: the repository, its set-up script and hooks."""

import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from conversations.agent.client import AgentClient, CommandResult
from conversations.models import Conversation, Sandbox, StartTask
from openhands_site.lib.problems import Problem

Phase = StartTask.Phase
CLONE_SECONDS = 600
SETUP_SECONDS = 600
HOSTS = {
    "github": "https://github.com",
    "gitlab": "https://gitlab.com",
    "bitbucket": "https://bitbucket.org",
}


class PreparationFailed(Problem):
    """The workspace could not be prepared; the sentence tells the command's own words."""

    status = 502
    code = "preparation-failed"


def prepare_workspace(
    conversation: Conversation,
    sandbox: Sandbox,
    client: AgentClient,
    phase: Callable[[str], AbstractContextManager[Any]],
) -> None:
    """Clone the repository, run ``.openhands/setup.sh``, install ``.openhands/pre-commit.sh``.

    Safe to repeat: a clone that is there is kept. Raises ``PreparationFailed``.
    """
    if not conversation.repository:
        return
    with phase(Phase.PREPARING_REPOSITORY):
        _clone(conversation.repository, sandbox.workspace, client)
    with phase(Phase.RUNNING_SETUP_SCRIPT):
        _check(
            client.execute(
                "if [ -f .openhands/setup.sh ]; then bash .openhands/setup.sh; fi",
                cwd=sandbox.workspace,
                timeout=SETUP_SECONDS,
            ),
            "The repository's set-up script failed",
        )
    with phase(Phase.SETTING_UP_GIT_HOOKS):
        _check(
            client.execute(
                "if [ -f .openhands/pre-commit.sh ]; then "
                "install -m 755 .openhands/pre-commit.sh .git/hooks/pre-commit; fi",
                cwd=sandbox.workspace,
                timeout=30,
            ),
            "The repository's commit hook could not be installed",
        )


def _clone(repository: dict[str, Any], workspace: str, client: AgentClient) -> None:
    url = f"{HOSTS[repository['provider']]}/{repository['full_name']}.git"
    branch = repository.get("branch")
    at = f"--branch {shlex.quote(branch)} " if branch else ""
    _check(
        client.execute(
            f"[ -d .git ] && git remote get-url origin >/dev/null 2>&1 || "
            f"GIT_TERMINAL_PROMPT=0 git clone {at}-- {shlex.quote(url)} .",
            cwd=workspace,
            timeout=CLONE_SECONDS,
        ),
        "The repository could not be cloned",
    )


def _check(result: CommandResult, sentence: str) -> None:
    if result.exit_code != 0:
        words = (result.stderr or result.stdout).strip().splitlines()[-3:]
        raise PreparationFailed(f"{sentence}: {' '.join(words)[:400] or 'no output'}")
