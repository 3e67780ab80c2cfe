"""A sandbox outlives the process of the server that started it, and any other process takes it over."""

import json
import os
import subprocess
import sys

from conversations.sandboxes.provider import State
from tests.conversations.sandboxes.box import list_alive
from tests.prepare import ROOT

STARTER = "tests.conversations.sandboxes.contract.starter"


def test_sandbox_of_a_killed_process_is_adopted(box, settings):
    environment = os.environ | {
        "SANDBOX_DIR": str(settings.SANDBOX_DIR),
        "ENGINE_DIR": str(settings.ENGINE_DIR),
        "ALLOW_PROCESS_SANDBOX": "true",
    }
    command = [sys.executable, "-W", "ignore", "-m", STARTER, box.name, str(box.spec.sandbox_id)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, start_new_session=True
    ) as starter:
        box.handle = json.loads(starter.stdout.readline())
        starter.kill()

    box.wait_for(State.RUNNING)

    assert box.provider.find(box.spec.sandbox_id) == box.handle
    assert box.provider.start(box.spec) == box.handle
    assert box.run("echo adopted") == "adopted\n"
    members = box.processes()
    box.stop()
    assert list_alive(members) == []
    assert box.inspect().state == State.STOPPED
    box.resume()
