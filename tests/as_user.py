"""`python -m tests.as_user ARGUMENTS`: run pytest as an ordinary user, from root, without PostgreSQL and Redis.

The Python interpreter, the virtual environment and the engine's cache may be in root's home folder, which no other user
may enter. The tests run in a mount namespace in which that home folder is empty except for these.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import prepare

UID = 12_345
"""A user without a name, as in many containers."""
_PREFIXES = (sys.prefix, sys.base_prefix, sys.exec_prefix)


def find_needed(home: Path) -> list[Path]:
    """Return the folders below the home folder that tests need, without those inside another one of them."""
    paths = [*map(Path, _PREFIXES), prepare.ROOT, prepare.engine_dir()]
    if (config := prepare.engine_dir() / "pyvenv.cfg").exists():
        words = dict(
            line.split(" = ", 1) for line in config.read_text().splitlines() if " = " in line
        )
        paths.append(Path(words["home"]).parent)
    below = sorted({path.resolve() for path in paths if path.resolve().is_relative_to(home)})
    return [path for path in below if path.is_dir() and not set(path.parents) & set(below)]


def build_script(home: Path, stage: Path, folder: Path, arguments: list[str]) -> str:
    """Return a shell script that hides the home folder, shows what is needed and runs pytest as the user."""
    lines = ["set -e"]
    needed = {path: stage / str(number) for number, path in enumerate(find_needed(home))}
    # Keep each folder at another place while the home folder is covered.
    for path, place in needed.items():
        lines += [f"mkdir {place}", f"mount --rbind {shlex.quote(str(path))} {place}"]
    lines.append(f"mount -t tmpfs -o mode=0755 tmpfs {shlex.quote(str(home))}")
    for path, place in needed.items():
        target = shlex.quote(str(path))
        lines += [f"mkdir -p {target}", f"mount --rbind {place} {target}", f"umount -l {place}"]
    user = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs"]
    user += ["--inh-caps=-all", "--bounding-set=-all", sys.executable, "-m", "pytest"]
    user += ["-o", f"cache_dir={folder}/cache", f"--basetemp={folder}/tests", *arguments]
    return "\n".join([*lines, f"exec {shlex.join(user)}"])


def run(arguments: list[str]) -> int:
    """Run pytest with these arguments as an ordinary user. Return its exit status."""
    if os.geteuid() != 0:
        sys.exit("Start this program as root, so that it can change to another user.")
    for name in ("unshare", "setpriv", "mount"):
        if not shutil.which(name):
            sys.exit(f"{name} is missing. Install util-linux.")
    with tempfile.TemporaryDirectory(prefix="oh-user-") as name:
        folder = Path(name)
        (stage := folder / "stage").mkdir()
        (home := folder / "home").mkdir()
        for path in (folder, home):
            os.chown(path, UID, UID)
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("PYTEST_", "XDG_", "COV_"))
        }
        environment |= {
            "HOME": str(home),
            "TMPDIR": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "ENGINE_DIR": str(prepare.engine_dir()),
            # No test may use the services, which the user cannot reach.
            "DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none",
            "REDIS_URL": "redis://127.0.0.1:9/0",
        }
        script = build_script(Path.home(), stage, folder, arguments)
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
        return subprocess.run(command, cwd=prepare.ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
