"""`python -m tests.again`: run the few tests that failed in the last run again, one at a time, and print their names.

A test that waits for real processes can fail on a machine that is busy for a moment. It is printed as FLAKY, because it
is still a bug in the test or in the server. If more than ``MAX_FAILED`` tests failed, none is run again.
"""

import json
import sys
from typing import Any

import pytest

from tests.prepare import ROOT

MAX_FAILED = 3


def read_cache(name: str) -> Any:
    """Return a value of pytest's cache, or None. ``tests.environment`` stores the exit status of the last run."""
    path = ROOT / ".pytest_cache/v" / name
    return json.loads(path.read_text()) if path.exists() else None


def main() -> int:
    failed = sorted(read_cache("cache/lastfailed") or {})
    if read_cache("tests/exitstatus") != pytest.ExitCode.TESTS_FAILED or not failed:
        print("The last run was interrupted or has no failed tests, so no test is run again.")
        return 1
    if len(failed) > MAX_FAILED:
        print(f"{len(failed)} tests failed. At most {MAX_FAILED} are run again.")
        return 1
    print("FLAKY or broken. These tests are run again, one at a time:", *failed, sep="\n  ")
    return int(
        pytest.main(["-q", "-p", "no:xdist", "--last-failed", "--last-failed-no-failures", "none"])
    )


if __name__ == "__main__":
    sys.exit(main())
