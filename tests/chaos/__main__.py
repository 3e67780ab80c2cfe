"""`make chaos`: run every test of this folder, including the long ones, and write a report.

``--size`` scales the long run: 1 is 40 senders of 2,500 events and 200 kills, which takes half an hour.
"""

import argparse
import os
import sys
from pathlib import Path

import pytest

from tests.chaos.report import Report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument(
        "--size", type=float, default=1.0, help="scale of the long run (%(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("data/chaos"), help="folder of the report (%(default)s)"
    )
    parser.add_argument("rest", nargs="*", help="arguments for pytest, after --")
    options = parser.parse_args()
    os.environ["CHAOS_SIZE"] = str(options.size)
    report = Report(options.out)
    code = pytest.main(["-q", "-p", "no:xdist", "tests/chaos", *options.rest], plugins=[report])
    totals = report.summary()["totals"]
    print("\n" + "  ".join(f"{name} {value}" for name, value in totals.items()))
    print(f"Report: {options.out / 'chaos.html'}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
