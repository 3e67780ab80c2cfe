"""The open network: what a sandbox reaches while it is open, and that nothing is left when it is closed."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from conversations.sandboxes.bubblewrap import open_network, support
from conversations.sandboxes.bubblewrap.provider import (
    BubblewrapProvider,
    explain_no_open_network,
)
from conversations.sandboxes.egress.policy import Policy, Profile
from conversations.sandboxes.provider import SandboxImpossible
from tests.conversations.sandboxes.bubblewrap import pasta_host

ROOT = Path(__file__).parents[4]
AS_USER = ("--user", "--map-root-user")
"""Options of ``unshare`` for a machine whose server has no second user, as that of an ordinary user."""
REFUSED = ("metadata", "loopback", "loopback6", "host")
USERS = ["server as root", "server as a user"] if os.geteuid() == 0 else ["server as a user"]


@pytest.fixture(scope="module", params=USERS)
def journey(request):
    """Return the hosts that a sandbox reached before, while and after its network was open, on a machine of its own."""
    options = () if request.param == "server as root" else AS_USER
    # The user of a sandbox must be able to enter the folder.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        result = subprocess.run(
            [
                "unshare",
                *options,
                "--net",
                "--mount",
                sys.executable,
                "-m",
                pasta_host.__name__,
                folder,
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.pasta
def test_open_sandbox_reaches_hosts_with_any_protocol(journey):
    assert set(journey["before"].values()) == {"OSError: [Errno 101] Network is unreachable"}
    reached = {name for name, result in journey["open"].items() if result == "reached"}
    assert reached == {
        *("tcp", "tcp6", "udp", "udp6", "ping", "name"),
        # Private networks are not refused: this is the risk that an administrator accepts.
        *("private", "private6"),
    }


@pytest.mark.pasta
def test_open_sandbox_does_not_reach_the_host_and_the_metadata_service(journey):
    refused = {name: journey["open"][name] for name in REFUSED}
    assert refused == {
        "metadata": "OSError: [Errno 101] Network is unreachable",
        "loopback": "ConnectionRefusedError: [Errno 111] Connection refused",
        "loopback6": "ConnectionRefusedError: [Errno 111] Connection refused",
        "host": "ConnectionRefusedError: [Errno 111] Connection refused",
    }


@pytest.mark.pasta
def test_opening_is_one_line_in_the_decision_log(journey):
    (line,) = journey["log"]
    del line["at"]
    assert line == {
        "host": "*",
        "port": 0,
        "address": "",
        "allowed": True,
        "reason": "open",
        "protocol": "pasta",
    }


@pytest.mark.pasta
def test_closed_sandbox_reaches_nothing(journey):
    assert journey["routes_closed"] == 0
    assert "reached" not in journey["closed"].values()
    assert journey["reopened"]["tcp"] == "reached"


@pytest.mark.pasta
def test_end_of_pasta_is_a_failure_in_words(journey):
    assert journey["failure"] == (
        "The open network ended: pasta ended with status -9. The sandbox was stopped, and its files are kept. "
        "Start it again, or choose another network profile."
    )
    assert journey["failed"]["tcp"] != "reached"


@pytest.mark.pasta
def test_pasta_ends_with_the_keeper(journey):
    assert journey["orphaned"]["tcp"] != "reached"


@pytest.mark.pasta
def test_pasta_runs_as_the_user_of_the_sandbox(journey):
    assert journey["user"] == (journey["uid"] or 0)


def test_missing_program_is_an_obstacle_with_a_remedy():
    sentence = open_network.find_obstacle("")
    assert (
        sentence
        == "The open network needs pasta. Install the package passt and restart the server."
    )


def test_missing_device_is_an_obstacle_with_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(open_network, "_TUN", tmp_path / "tun")
    sentence = open_network.find_obstacle("/usr/bin/pasta")
    assert "Load the kernel module tun" in sentence
    (tmp_path / "tun").touch()
    assert open_network.find_obstacle("/usr/bin/pasta") == ""


def test_open_profile_is_refused_unless_the_setting_allows_it(settings, tmp_path):
    settings.SANDBOX_ALLOW_OPEN_NETWORK = False
    settings.SANDBOX_DIR = tmp_path
    assert "SANDBOX_ALLOW_OPEN_NETWORK=true" in explain_no_open_network()
    with pytest.raises(SandboxImpossible, match="does not allow the open network"):
        BubblewrapProvider().set_policy({"dir": str(tmp_path)}, Policy(Profile.OPEN))
    assert not (tmp_path / "policy.json").exists()
    settings.SANDBOX_ALLOW_OPEN_NETWORK = True
    if shutil.which("pasta") is None:
        assert "Install the package passt" in explain_no_open_network()
    else:
        assert explain_no_open_network() == open_network.find_obstacle(support.probe().pasta)
