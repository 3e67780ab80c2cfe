"""The contract of the providers once more as an ordinary user, if the tests run as root."""

import os
import subprocess
import sys

import pytest

from tests.prepare import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

if os.geteuid() == 0:

    def test_contract_holds_for_an_ordinary_user():
        command = [sys.executable, "-m", "tests.as_user", "-q", "-m", "not slow", "-n", "2"]
        folder = "tests/conversations/sandboxes/contract"
        done = subprocess.run(
            [*command, folder, "-k", "bubblewrap"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

        print(done.stdout)
        assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
        assert " passed" in done.stdout
