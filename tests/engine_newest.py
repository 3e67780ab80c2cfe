"""`python -m tests.engine_newest`: run the contract tests against the newest release of the agent engine.

The package index is asked for the newest release. The release is installed into a cache folder of its own, with the
pinned packages wherever it accepts them. The tests marked ``contract`` run in a copy of this tree, whose constraints
file names the release, so nothing in this tree changes.

Exit status: 0 if all tests passed or the newest release is the pinned one, 1 if tests failed, 2 if the release could
not be resolved or installed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree as ET

from lib.python_packages import pip_settings, uv_program
from tests.prepare import ROOT

PACKAGES = ("openhands-agent-server", "openhands-sdk", "openhands-tools")
CONSTRAINTS = Path("engine") / "agent-server-constraints.txt"
PYTHON = "3.13"
"""The Python version for which packages are chosen, as for the pinned constraints."""
LEFT_OUT = (".git", ".venv", "data", "node_modules", "__pycache__", ".*_cache")
_INSTALL = "import sys; from tests import prepare; sys.exit(prepare._install_engine() or 0)"


class Impossible(Exception):
    """The release cannot be tested. The message says why."""


def read_version(constraints: str) -> str:
    """Return the version of the engine that a constraints file names."""
    match = re.search(rf"^{PACKAGES[0]}==(\S+)$", constraints, re.MULTILINE)
    assert match is not None
    return match[1]


def resolve(release: str) -> str:
    """Return constraints for a release (empty: the newest one). Pinned packages stay if the release accepts them."""
    uv = uv_program.find_uv(Path(sys.prefix, "bin")) or uv_program.find_other_uv()
    if uv is None:
        raise Impossible("uv was not found. `make setup` installs it.")
    requirements = [f"{name}=={release}" if release else name for name in PACKAGES]
    with tempfile.TemporaryDirectory() as folder:
        # uv keeps the versions of a file that exists, except those of the packages to upgrade.
        pins = shutil.copy(ROOT / CONSTRAINTS, folder)
        command = [str(uv), "pip", "compile", "-", "--quiet", "--no-header", "--no-annotate"]
        command += pip_settings.arguments_for_uv()
        command += ["--no-emit-index-url", "--no-emit-find-links"]
        command += ["--python-version", PYTHON, "--output-file", pins]
        for name in PACKAGES:
            command += ["--upgrade-package", name]
        done = subprocess.run(
            command,
            input="\n".join(requirements),
            env=pip_settings.environment_for_uv(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Impossible(f"The release could not be resolved: {done.stderr.strip()}")
        return Path(pins).read_text()


def run_tests(tree: Path, arguments: list[str]) -> tuple[int, list[str]]:
    """Run the contract tests in a tree. Return the number of tests and the names of those that failed."""
    report = tree / "contract.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "contract and not chaos"]
    command += ["-p", "no:cacheprovider", "--junitxml", str(report), *arguments]
    subprocess.run(command, cwd=tree, env=os.environ | {"REQUIRE_ALL": "1"}, check=False)
    if not report.exists():
        raise Impossible("The tests could not be run. The reason is above.")
    cases = list(ET.parse(report).iter("testcase"))
    if not cases:
        raise Impossible("No test was run.")
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    return len(cases), failed


def check(release: str, *, force: bool, arguments: list[str]) -> int:
    """Check a release and print the result. Return the exit status."""
    pinned = read_version((ROOT / CONSTRAINTS).read_text())
    constraints = resolve(release)
    version = read_version(constraints)
    if version == pinned and not force:
        print(f"The newest release of the agent engine is {version}, which this server uses.")
        return 0
    print(f"Testing agent engine {version}. This server uses {pinned}.", flush=True)
    with tempfile.TemporaryDirectory(prefix="oh-newest-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*LEFT_OUT))
        (tree / CONSTRAINTS).write_text(constraints)
        done = subprocess.run([sys.executable, "-c", _INSTALL], cwd=tree, check=False)
        if done.returncode:
            raise Impossible(f"Agent engine {version} could not be installed.")
        count, failed = run_tests(tree, arguments)
    if failed:
        print(f"Agent engine {version}: {len(failed)} of {count} contract tests failed:")
        print(*failed, sep="\n")
        return 1
    print(f"Agent engine {version}: all {count} contract tests passed.")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.engine_newest", description=__doc__)
    parser.add_argument("--release", default="", help="test this release instead of the newest one")
    parser.add_argument("--force", action="store_true", help="test also the pinned release")
    options, arguments = parser.parse_known_args()
    try:
        return check(options.release, force=options.force, arguments=arguments)
    except Impossible as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
