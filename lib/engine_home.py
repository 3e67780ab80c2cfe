"""The agent engine's own Python environment: find an interpreter for it, install it, tell its state.

The engine needs a newer Python than this server and some two hundred packages, so it lives apart, in
``ENGINE_DIR``. Its ``bin/agent-server`` appears last and ``installed.json`` after it: what is there before
is not an engine yet.
"""

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from django.conf import settings

from lib import processes

PACKAGE = "openhands-agent-server"
CONSTRAINTS: Path = settings.BASE_DIR / "engine" / "agent-server-constraints.txt"
OLDEST_PYTHON = (3, 12)
NEEDED_MEGABYTES = 1_200
STAMP, MARKER = "installed.json", "installing.json"
_NAMES = ("python3.13", "python3.12", "python3.14", "python3")
NO_PYTHON = (
    "The agent engine needs Python 3.12 or newer and none was found. Get one (`apt install python3.12 "
    "python3.12-venv`, `brew install python@3.13`, `uv python install 3.13` or `pyenv install 3.13`), or name "
    "one by OH_ENGINE_PYTHON=/path/to/python. Until then everything works, but agents do not start."
)


class NoPython(Exception):
    """No interpreter on this machine can run the engine; the text says how to get one."""


class InstallFailed(Exception):
    """The engine could not be installed; the text is a sentence."""


@dataclass(frozen=True)
class Status:
    """What ``ENGINE_DIR`` holds; ``state`` is ready, installing, unfinished, outdated or missing."""

    state: str
    version: str
    """Of the engine found, else of the one wanted."""
    folder: str
    detail: str

    @property
    def is_ready(self) -> bool:
        return self.state == "ready"


@dataclass(frozen=True)
class Progress:
    """How far an installation is; ``phase`` is fetching or installing."""

    phase: str
    done: int
    total: int
    megabytes: int
    seconds: int

    def __str__(self) -> str:
        packages = f"{self.done} of {self.total} packages"
        return f"{self.phase} {packages}, {self.megabytes} MB, {self.seconds} s"


def wanted() -> dict[str, str]:
    """``{package: version}`` of the constraints."""
    pins = re.findall(
        r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;]+)", CONSTRAINTS.read_text(), re.MULTILINE
    )
    return {name.lower(): version for name, version in pins}


def status() -> Status:
    """Look at ``ENGINE_DIR``; cheap enough to call before every start of a sandbox."""
    folder = settings.ENGINE_DIR
    if processes.is_held(_lock_of(folder)):
        detail = f"The agent engine is being installed in {folder}."
        return Status("installing", wanted()[PACKAGE], str(folder), detail)
    return _look(folder)


def _look(folder: Path) -> Status:
    version = wanted()[PACKAGE]

    def say(state: str, detail: str, found: str = version) -> Status:
        return Status(state, found, str(folder), detail)

    if not folder.exists() or not any(folder.iterdir()):
        return say("missing", f"The agent engine is not installed in {folder}.")
    found = _installed_version(folder)
    if (
        (folder / MARKER).exists()
        or not found
        or not os.access(folder / "bin" / "agent-server", os.X_OK)
    ):
        return say(
            "unfinished", f"The installation of the agent engine in {folder} was not finished."
        )
    stamp = _read_json(folder / STAMP)
    # Without a stamp somebody else installed it: what counts is the version of the engine itself.
    if found != version or (stamp and stamp["constraints"] != _fingerprint()):
        return say(
            "outdated", f"{folder} holds engine {found}; this server goes with {version}.", found
        )
    if stamp and stamp["folder"] != str(folder):
        return say("outdated", f"{folder} was moved after its installation.", found)
    return say("ready", f"Agent engine {version} in {folder}.")


def install(*, progress: Callable[[Progress], None] = lambda _: None) -> Status:
    """Install what the constraints say, unless that is there. Safe to repeat and to interrupt.

    Waits while another process installs into the same folder. Raises ``NoPython``, ``InstallFailed``.
    """
    folder = settings.ENGINE_DIR
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if (found := _look(folder)).is_ready:
            return found
        python = find_python()
        _clear(folder)
        free = shutil.disk_usage(folder.parent).free // 1_000_000
        if free < NEEDED_MEGABYTES:
            raise InstallFailed(
                f"The engine takes about {NEEDED_MEGABYTES} MB and the disk of {folder} has {free} MB left. "
                "Free some, or name a folder on another disk by ENGINE_DIR."
            )
        try:
            _build(folder, python, progress)
        except OSError as error:
            raise InstallFailed(
                f"{error.strerror}: {error.filename}. Set ENGINE_DIR elsewhere?"
            ) from error
        return _look(folder)


def find_python() -> Path:
    """The first interpreter that runs, is new enough and can make environments. Raises ``NoPython``.

    Each candidate is run: the shims of pyenv are on ``PATH`` for versions that then refuse.
    """
    if named := settings.ENGINE_PYTHON:
        if found := _try(shutil.which(named) or named):
            return found
        raise NoPython(
            f"OH_ENGINE_PYTHON (or AGENT_PYTHON) names {named}, which is not a Python 3.12 or newer with the "
            "module venv. Correct it, or unset it to have one looked for."
        )
    for candidate in _candidates():
        if found := _try(candidate):
            return found
    raise NoPython(NO_PYTHON)


def _candidates() -> Iterator[str]:
    for name in _NAMES:
        if path := shutil.which(name):
            yield path
    root = os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv"))
    # This glob passes over folders that it may not read. The engine's compiled packages reach the newest
    # Python last, so 3.13 comes first.
    versions = glob.glob(f"{glob.escape(root)}/versions/3.1[2-9]*/bin/python")  # noqa: PTH207
    yield from sorted(sorted(versions, reverse=True), key=lambda path: "/3.13" not in path)
    if uv := shutil.which("uv"):
        quiet = {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}
        yield from _output([uv, "python", "find", ">=3.12"], quiet).splitlines()


def _try(python: str) -> Path | None:
    """The interpreter's real path when it will do."""
    code = "import sys, venv, ensurepip; print(*sys.version_info[:2]); print(sys.executable)"
    version, _, path = _output([python, "-I", "-c", code]).strip().partition("\n")
    if not path or tuple(map(int, version.split())) < OLDEST_PYTHON:
        return None
    return Path(path)


def _output(command: list[str], environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            env=os.environ | (environment or {}),
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


# --- Installing -----------------------------------------------------------------


def _build(folder: Path, python: Path, progress: Callable[[Progress], None]) -> None:
    folder.mkdir(mode=0o755, exist_ok=True)
    (folder / MARKER).write_text("{}")
    log = folder.parent / f"{folder.name}.log"
    pins = CONSTRAINTS.read_text().splitlines()
    rest = folder / "packages.txt"
    rest.write_text("\n".join(line for line in pins if not line.lower().startswith(PACKAGE + "==")))
    watch = _Watch(folder, log, progress)
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUNBUFFERED": "1"}
    environment.pop("PYTHONPATH", None)
    own = str(folder / "bin" / "python")
    uv = shutil.which("uv")
    with log.open("w") as output:
        made = [str(python), "-I", "-m", "venv", str(folder)]
        _run(made, environment, output, log, watch)
        for arguments in (["-r", str(rest)], ["-r", str(CONSTRAINTS)]):
            pip = [
                own,
                "-I",
                "-m",
                "pip",
                "install",
                "--no-input",
                "--progress-bar=off",
                *arguments,
            ]
            fast = [uv or "", "pip", "install", "--python", own, "--compile-bytecode", *arguments]
            if uv:
                try:
                    _run(fast, _for_uv(environment), output, log, watch)
                    continue
                except InstallFailed:
                    pass  # uv reads other settings than pip: what pip can reach, it may not
            _run(pip, environment, output, log, watch)
    stamp = {"constraints": _fingerprint(), "folder": str(folder), "version": wanted()[PACKAGE]}
    (folder / STAMP).write_text(json.dumps(stamp | {"python": str(python)}))
    (folder / MARKER).unlink()


def _run(
    command: list[str], environment: dict[str, str], output: IO[str], log: Path, watch: "_Watch"
) -> None:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
        preexec_fn=processes.die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - one system call
    )
    try:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            watch.look()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if process.returncode:
        tail = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in tail if "error" in line.lower()] or tail or ["no output"]
        raise InstallFailed(
            f"The agent engine could not be installed: {errors[-1].strip()} See {log}."
        )


def _for_uv(environment: dict[str, str]) -> dict[str, str]:
    """What pip was told about where packages come from, in uv's words."""
    words = {
        "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
        "PIP_EXTRA_INDEX_URL": "UV_INDEX",
        "PIP_FIND_LINKS": "UV_FIND_LINKS",
        "PIP_CERT": "SSL_CERT_FILE",
        "PIP_NO_INDEX": "UV_NO_INDEX",
    }
    told = {uv: environment[pip] for pip, uv in words.items() if pip in environment}
    return told | environment | {"UV_NO_PROGRESS": "1"}


class _Watch:
    """Tells how far pip is, at most every two seconds: by its log first, then by what lies in place."""

    def __init__(self, folder: Path, log: Path, tell: Callable[[Progress], None]) -> None:
        self.folder, self.log, self.tell = folder, log, tell
        self.total = len(wanted())
        self.began = self.looked = time.monotonic()

    def look(self) -> None:
        now = time.monotonic()
        if now - self.looked < 2:
            return
        said = self.log.read_text(errors="replace")
        done = len(list(self.folder.glob("lib/python3*/site-packages/*.dist-info")))
        if done > 1 or "Installing collected" in said:  # the first one is pip itself
            phase, size = "installing", _size(self.folder) // 1_000_000
        else:
            sizes = re.findall(r"^ +Downloading .*\(([\d.]+) (kB|MB)\)", said, re.MULTILINE)
            size = int(sum(float(n) * (1 if unit == "MB" else 0.001) for n, unit in sizes))
            phase, done = "fetching", len(re.findall("^Collecting ", said, re.MULTILINE))
        self.looked = time.monotonic()
        seconds = int(now - self.began)
        self.tell(Progress(phase, min(done, self.total), self.total, size, seconds))


def _size(folder: Path) -> int:
    total = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += _size(Path(entry.path))
            else:
                total += entry.stat(follow_symlinks=False).st_size
    return total


def _clear(folder: Path) -> None:
    """Remove an unfinished or outdated environment; nothing else."""
    if not folder.exists():
        return
    is_ours = (folder / "pyvenv.cfg").exists() or (folder / MARKER).exists()
    if any(folder.iterdir()) and not is_ours:
        raise InstallFailed(
            f"ENGINE_DIR is {folder}, which holds other things. Name an empty folder."
        )
    shutil.rmtree(folder)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    while (lock := processes.hold(_lock_of(folder))) is None:
        time.sleep(0.5)
    try:
        yield
    finally:
        lock.close()


def _lock_of(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.lock"


def _installed_version(folder: Path) -> str:
    stem = PACKAGE.replace("-", "_")
    found = list(folder.glob(f"lib/python3*/site-packages/{stem}-*.dist-info"))
    return found[0].name.removesuffix(".dist-info").rpartition("-")[2] if found else ""


def _fingerprint() -> str:
    return hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()


def _read_json(path: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found
