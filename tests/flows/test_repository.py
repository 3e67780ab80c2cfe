"""A private repository in a sandbox: clone, setup, push and failures, without a stored token."""

import json
from pathlib import Path

import pytest

from tests.fakes import github
from tests.fakes.stack import Stack

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(300)]
FILES = {
    "hello.txt": "from the repository\n",
    ".openhands/setup.sh": "echo set up by $0 > made-by-setup.txt\n",
    ".openhands/pre-commit.sh": "#!/bin/sh\nexit 0\n",
}


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with github.running(tmp_path_factory.mktemp("github"), address="127.0.0.2") as fake:
        fake.add("octo/private", FILES, branches=("feat/one+two",))
        yield fake


@pytest.fixture(scope="module")
def owner(stack: Stack, host):
    token = {"token": github.TOKEN, "host": host.host}
    stack.owner.call("PUT", "provider-tokens/github", json=token, expect=200)
    yield stack.owner
    stack.owner.call("DELETE", "provider-tokens/github", expect=204)


def test_private_repository_is_cloned_and_the_token_is_stored_nowhere(owner):
    repository = {"provider": "github", "full_name": "octo/private", "branch": "feat/one+two"}
    talk = owner.converse(title="Clone", repository=repository)
    record = talk.wait_ready()

    phases = [phase["phase"] for phase in record["start_task"]["phases"]]
    assert phases[2:5] == ["PREPARING_REPOSITORY", "RUNNING_SETUP_SCRIPT", "SETTING_UP_GIT_HOOKS"]
    names = [row["name"] for row in owner.get(f"{talk.path}/files")["entries"]]
    assert {"hello.txt", "made-by-setup.txt", ".git"} <= set(names)

    head = talk.engine().execute("git status --branch --short", cwd=talk.sandbox()["workspace"])
    assert head.stdout.startswith("## feat/one+two...origin/feat/one+two")
    sandbox = talk.sandbox()
    git = talk.project() / ".git"
    assert (git / "hooks" / "pre-commit").stat().st_mode & 0o111
    assert "credential" not in (git / "config").read_text()
    # The engine and the agent can read every file below the sandbox's folder.
    files_with_token = [
        path
        for path in Path(sandbox["handle"]["dir"]).rglob("*")
        if path.is_file() and github.TOKEN.encode() in path.read_bytes()
    ]
    assert files_with_token == []
    output = talk.engine().execute("cat /tmp/tmp.*/credentials; env", cwd=sandbox["workspace"])
    assert github.TOKEN not in output.stdout
    assert github.TOKEN not in json.dumps([record, talk.events()])


def test_agent_pushes_and_the_token_is_stored_nowhere(owner, host):
    repository = {"provider": "github", "full_name": "octo/private", "branch": "main"}
    talk = owner.converse(title="Push", repository=repository)
    before = talk.wait_ready()["last_seq"]
    helper = '!f() { echo username=x-access-token; echo "password=$GITHUB_TOKEN"; }; f'

    talk.say(
        "!run git checkout -q -b pushed && git commit -q --allow-empty -m Pushed && "
        f"git -c credential.helper= -c credential.helper='{helper}' push -u origin HEAD; "
        "echo token: $GITHUB_TOKEN\n!finish Done."
    )
    record = talk.wait_status("finished", after=before)

    log = json.dumps([record, talk.events()])
    assert github.git("log", "-1", "--format=%s", "pushed", cwd=host.path("octo/private")) == (
        "Pushed\n"
    ), log[-3000:]
    assert "token: " in log
    assert github.TOKEN not in log
    folder = Path(talk.sandbox()["handle"]["dir"])
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.parts[-2:] == (".git", "config") for path in files)
    assert [path for path in files if github.TOKEN.encode() in path.read_bytes()] == []


def test_failed_clone_reports_its_cause(owner):
    missing = {"provider": "github", "full_name": "octo/missing"}
    branch = {"provider": "github", "full_name": "octo/private", "branch": "no-such-branch"}
    talks = [
        owner.converse(title="Clone", repository=repository) for repository in (missing, branch)
    ]

    for talk, cause in zip(talks, ("not found", "no-such-branch"), strict=True):
        record = talk.wait(lambda record: record["status"] == "failed", seconds=150)
        assert cause in record["start_task"]["error"]
        assert record["start_task"]["error"].startswith("The repository could not be cloned")
        assert github.TOKEN not in json.dumps(record)
