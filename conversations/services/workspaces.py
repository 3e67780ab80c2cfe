"""Preparation of a new workspace before the agent starts: clone the repository, run its setup script, install hooks."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

from conversations import repositories
from conversations.engine.client import CommandResult, EngineClient
from conversations.models import Conversation, Sandbox, StartTask
from lib.problems import Problem

Phase = StartTask.Phase
CLONE_SECONDS = 600
SETUP_SECONDS = 600
CLONE_MARKER = ".git/cloned-by-server"
"""A file that is created after a complete clone. Without this file, a clone was interrupted."""


class PreparationFailed(Problem):
    """The workspace could not be prepared. The detail contains the output of the failed command."""

    status = 502
    code = "preparation-failed"


def prepare_workspace(
    conversation: Conversation,
    sandbox: Sandbox,
    client: EngineClient,
    phase: Callable[[str], AbstractContextManager[Any]],
) -> None:
    """Clone the repository, run its ``.openhands/setup.sh`` and install its ``.openhands/pre-commit.sh``.

    Do nothing without a repository. ``phase`` returns a context manager that records a phase of the start. Safe to
    repeat: a complete clone is kept. Raise ``PreparationFailed`` if a command fails.
    """
    if not conversation.repository:
        return
    with phase(Phase.PREPARING_REPOSITORY):
        # Without a personal lender, clone as a stranger: the organization has no token of its own for Git hosts.
        is_personal = conversation.lender == Conversation.Lender.CREATOR
        clone_source = repositories.clone_source if is_personal else repositories.public_source
        source = clone_source(
            repository=conversation.repository,
            user_id=conversation.created_by_id,
            organization_id=conversation.organization_id,
        )
        _clone(source, conversation.repository.get("branch"), sandbox.workspace, client)
    with phase(Phase.RUNNING_SETUP_SCRIPT):
        _check(
            client.execute(
                "if [ -f .openhands/setup.sh ]; then bash .openhands/setup.sh; fi",
                cwd=sandbox.workspace,
                timeout=SETUP_SECONDS,
            ),
            "The repository's setup script failed",
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


def _clone(
    source: repositories.CloneSource, branch: str | None, workspace: str, client: EngineClient
) -> None:
    branch_option = f"--branch {shlex.quote(branch)} " if branch else ""
    with _credentials(source, workspace, client) as options:
        # Remove the remains of an interrupted clone first, because Git clones only into an empty folder. Without
        # GIT_TERMINAL_PROMPT=0, Git would wait for a password until the timeout.
        result = client.execute(
            f"[ -f {CLONE_MARKER} ] || {{ find . -mindepth 1 -delete && GIT_TERMINAL_PROMPT=0 "
            f"git {options}clone {branch_option}-- {shlex.quote(source.url)} . && touch {CLONE_MARKER}; }}",
            cwd=workspace,
            timeout=CLONE_SECONDS,
        )
    advice = ""
    if not source.secret:
        advice = (
            " If the repository is private, connect its Git host under Settings. A conversation that others may steer "
            "does not use your token unless you agree under Sharing."
        )
    _check(result, "The repository could not be cloned", advice)


@contextmanager
def _credentials(
    source: repositories.CloneSource, workspace: str, client: EngineClient
) -> Iterator[str]:
    """Yield the options of a Git command that make Git use the source's credentials.

    Without a secret, the options disable all credential helpers.
    """
    # While the block runs, a temporary file outside the workspace contains the secret. A secret on the command line
    # would appear in the engine's log, and a secret in the repository's configuration would stay readable by the agent.
    if not source.secret:
        yield "-c credential.helper= "
        return
    result = client.execute("umask 077 && mktemp -d", cwd=workspace, timeout=30)
    _check(result, "The credentials could not be copied into the sandbox")
    folder = result.stdout.strip()
    file = f"{folder}/credentials"
    parts = urlsplit(source.url)
    login = f"{quote(source.username, safe='')}:{quote(source.secret, safe='')}"
    try:
        client.upload(file, f"{parts.scheme}://{login}@{parts.netloc}\n".encode())
        helper = f"store --file={shlex.quote(file)}"
        yield f"-c credential.helper= -c credential.helper={shlex.quote(helper)} "
    finally:
        client.execute(f"rm -rf -- {shlex.quote(folder)}", cwd=workspace, timeout=30)


def _check(result: CommandResult, sentence: str, advice: str = "") -> None:
    if result.timed_out:
        raise PreparationFailed(f"{sentence}: the command took too long.")
    if result.exit_code != 0:
        lines = (result.stderr or result.stdout).strip().splitlines()[-3:]
        output = " ".join(lines)[:400].rstrip(".") or "the command printed no output"
        raise PreparationFailed(f"{sentence}: {output}.{advice}")
