"""`python -m tests.again`: gives the few tests that failed in the last run one more try, alone and in the open.

Tests that wait for real processes can fail on a machine that is crowded for a moment. What failed first is named, and stays a
bug to be found; more than ``MOST`` are no accident and fail for good.
"""

import json
import sys
from typing import Any

import pytest

from tests.prepare import ROOT

MOST = 3


def _noted(name: str) -> Any:
    """What pytest's cache holds under a name (``tests.environment`` notes how a run ended)."""
    path = ROOT / ".pytest_cache/v" / name
    return json.loads(path.read_text()) if path.exists() else None


def main() -> int:
    failed = sorted(_noted("cache/lastfailed") or {})
    if _noted("tests/exitstatus") != pytest.ExitCode.TESTS_FAILED or not failed:
        print("The last run did not come to its end; what it left out cannot be tried again.")
        return 1
    if len(failed) > MOST:
        print(f"{len(failed)} tests failed; more than {MOST} are not tried again.")
        return 1
    print("FLAKY, or broken; tried once more, alone:", *failed, sep="\n  ")
    return int(
        pytest.main(["-q", "-p", "no:xdist", "--last-failed", "--last-failed-no-failures", "none"])
    )


if __name__ == "__main__":
    sys.exit(main())
