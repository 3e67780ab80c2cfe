"""What happens in a fresh sandbox before the agent starts: the repository, its set-up script and hooks."""

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
CLONED = ".git/cloned-by-server"
"""Made after a clone: one that was interrupted looks like a repository whose files were deleted."""


class PreparationFailed(Problem):
    """The workspace could not be prepared; the sentence tells the command's own words."""

    status = 502
    code = "preparation-failed"


def prepare_workspace(
    conversation: Conversation,
    sandbox: Sandbox,
    client: EngineClient,
    phase: Callable[[str], AbstractContextManager[Any]],
) -> None:
    """Clone the repository, run ``.openhands/setup.sh``, install ``.openhands/pre-commit.sh``.

    Safe to repeat: a clone that is there is kept. Raises ``PreparationFailed``.
    """
    if not conversation.repository:
        return
    with phase(Phase.PREPARING_REPOSITORY):
        source = repositories.clone_source(
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


def _clone(
    source: repositories.CloneSource, branch: str | None, workspace: str, client: EngineClient
) -> None:
    at = f"--branch {shlex.quote(branch)} " if branch else ""
    with _credentials(source, workspace, client) as options:
        result = client.execute(
            f"[ -f {CLONED} ] || {{ find . -mindepth 1 -delete && GIT_TERMINAL_PROMPT=0 "
            f"git {options}clone {at}-- {shlex.quote(source.url)} . && touch {CLONED}; }}",
            cwd=workspace,
            timeout=CLONE_SECONDS,
        )
    hint = "" if source.secret else " as anybody; connect the Git host if it is private"
    _check(result, f"The repository could not be cloned{hint}")


@contextmanager
def _credentials(
    source: repositories.CloneSource, workspace: str, client: EngineClient
) -> Iterator[str]:
    """Git's options to ask as somebody, for one command.

    The secret is in a file outside the workspace while the command runs: it is in no command line, which the
    engine keeps in its log, nor in the repository's own settings.
    """
    if not source.secret:
        yield "-c credential.helper= "
        return
    made = client.execute("umask 077 && mktemp -d", cwd=workspace, timeout=30)
    _check(made, "The repository's credentials could not be handed over")
    folder = made.stdout.strip()
    file = f"{folder}/credentials"
    parts = urlsplit(source.url)
    login = f"{quote(source.username, safe='')}:{quote(source.secret, safe='')}"
    try:
        client.upload(file, f"{parts.scheme}://{login}@{parts.netloc}\n".encode())
        helper = f"store --file={shlex.quote(file)}"
        yield f"-c credential.helper= -c credential.helper={shlex.quote(helper)} "
    finally:
        client.execute(f"rm -rf -- {shlex.quote(folder)}", cwd=workspace, timeout=30)


def _check(result: CommandResult, sentence: str) -> None:
    if result.timed_out:
        raise PreparationFailed(f"{sentence}: it took too long")
    if result.exit_code != 0:
        words = (result.stderr or result.stdout).strip().splitlines()[-3:]
        raise PreparationFailed(f"{sentence}: {' '.join(words)[:400] or 'no output'}")
