"""`python -m tests.platforms`: check each package of the lock files for a wheel on each platform; write docs/platforms.md.

Run it after a change of the lock files. It asks the package index for every platform and takes about a minute, so it is
no part of the tests.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from lib.python_packages import environments, pip_settings, uv_program

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "platforms.md"
PLATFORMS = {
    "Linux x86-64": "x86_64-manylinux_2_28",
    "Linux ARM64": "aarch64-manylinux_2_28",
    "Alpine x86-64": "x86_64-unknown-linux-musl",
    "macOS 15, Apple silicon": "aarch64-apple-darwin",
    "macOS 15, Intel": "x86_64-apple-darwin",
}
"""Names of platforms and the names that uv gives them."""
OLDEST_MACOS = "15.0"
PARTS = {
    "The server": (ROOT / "requirements.lock", ("3.11", "3.12", "3.13", "3.14")),
    "The agent engine": (ROOT / "engine" / "agent-server-constraints.txt", ("3.12", "3.13")),
    "The installer": (ROOT / "requirements-uv.lock", ("3.11",)),
}
"""Requirements files, and the versions of Python that are checked."""
_START, _END = "<!-- made by python -m tests.platforms -->", "<!-- end -->"


@dataclass(frozen=True)
class Check:
    """The packages of one requirements file on one platform."""

    total: int
    from_source: tuple[str, ...]
    nowhere: tuple[str, ...]
    """Packages that have neither a wheel nor a source."""


def main() -> None:
    """Check everything, write the tables, and print the packages without a wheel."""
    uv = uv_program.find_uv(Path(sys.prefix, "bin"))
    if uv is None:
        sys.exit("The pinned uv is missing. Run `make setup`.")
    tables = []
    for part, (lock, pythons) in PARTS.items():
        rows = [f"| {part} | " + " | ".join(PLATFORMS) + " |", "|---" * (len(PLATFORMS) + 1) + "|"]
        for python in pythons:
            cells = []
            for platform, target in PLATFORMS.items():
                check = check_platform(uv, lock, target, python)
                print(f"{part}, Python {python}, {platform}: {describe(check)}", flush=True)
                cells.append(describe(check))
            rows.append(f"| Python {python} | " + " | ".join(cells) + " |")
        tables.append("\n".join(rows))
    text = PAGE.read_text()
    before, rest = text.split(_START)
    after = rest.split(_END)[1]
    PAGE.write_text(before + _START + "\n\n" + "\n\n".join(tables) + "\n\n" + _END + after)


def describe(check: Check) -> str:
    """Return the cell of a table."""
    count = check.total - len(check.from_source) - len(check.nowhere)
    words = [f"{count} wheel{'s' * (count != 1)}"]
    if check.from_source:
        words.append("from source: " + ", ".join(f"`{name}`" for name in check.from_source))
    if check.nowhere:
        words.append("none: " + ", ".join(f"`{name}`" for name in check.nowhere))
    return "; ".join(words)


def check_platform(uv: Path, lock: Path, target: str, python: str) -> Check:
    """Ask uv what it would install, and leave out each package without a wheel until the rest has wheels."""
    without: list[str] = []
    while True:
        output = _dry_run(uv, _without(lock, without), target, python, ["--only-binary", ":all:"])
        if found := re.search(r"Would install (\d+) package", output):
            break
        missing = re.search(
            r"Because ([a-z0-9.-]+)(?:\{[^}]*\})?==\S+ has no (?:usable )?wheels", output
        )
        if not missing or missing[1] in without:
            sys.exit(f"uv failed for {lock.name} on {target} with Python {python}:\n{output}")
        without.append(missing[1])
    # The sources of these contain no program.
    nowhere = [name for name in without if name in environments.WITHOUT_WHEEL]
    for name in sorted(set(without) - set(nowhere)):
        names = _names(lock) - {name}
        if "Would install" not in _dry_run(uv, _without(lock, names), target, python, []):
            nowhere.append(name)
    from_source = sorted(set(without) - set(nowhere))
    return Check(int(found[1]) + len(without), tuple(from_source), tuple(sorted(nowhere)))


def _names(lock: Path) -> set[str]:
    return {
        name.lower() for name in re.findall(r"^([A-Za-z0-9._-]+)", lock.read_text(), re.MULTILINE)
    }


def _without(lock: Path, names: Collection[str]) -> str:
    """Return the text of a requirements file without some packages."""
    text = lock.read_text().replace("\\\n", " ")
    kept = [
        line for line in text.splitlines() if line.split("==")[0].split("[")[0].lower() not in names
    ]
    return "\n".join(kept)


def _dry_run(uv: Path, requirements: str, target: str, python: str, options: list[str]) -> str:
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "requirements.txt")
        file.write_text(requirements + "\n")
        command = [
            str(uv), "pip", "install", "--dry-run", "--no-deps", "--target", f"{name}/none",
            "--python-platform", target, "--python-version", python, *options, "-r", str(file),
        ]  # fmt: skip
        environment = pip_settings.environment_for_uv(os.environ)
        environment |= {"MACOSX_DEPLOYMENT_TARGET": OLDEST_MACOS, "NO_COLOR": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


if __name__ == "__main__":
    main()
