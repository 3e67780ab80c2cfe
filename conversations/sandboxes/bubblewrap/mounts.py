"""The files that a sandbox sees: which folders of the host are mounted where, and the arguments of ``bwrap`` for them.

Nothing else of the host exists inside. The system and the engine are read-only; writable are only the sandbox's own
folders and its private ``/tmp``.
"""

import configparser
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

INSIDE = Path(__file__).with_name("inside")
INSIDE_TARGET = "/opt/openhands"
"""Where the folder with ``relay.py`` is mounted."""
SHM_BYTES = 64 * 1024 * 1024
_SYSTEM_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_PUBLIC_ETC = (
    "alternatives",
    "ca-certificates",
    "crypto-policies",
    "fonts",
    "gai.conf",
    "inputrc",
    "java",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "magic",
    "mailcap",
    "maven",
    "mime.types",
    "nanorc",
    "os-release",
    "pki/ca-trust",
    "pki/tls/certs",
    "protocols",
    "rpc",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
)
"""Files and folders of ``/etc`` that describe the system and contain no secrets. Missing ones are skipped."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or folder of the host, and its path in the sandbox."""

    source: str
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a sandbox sees, in the order in which it is mounted."""

    system: list[Mount]
    links: list[tuple[str, str]]
    """Symbolic links: (target of the link, path)."""
    hidden: list[str]
    """Folders that are inside a mounted folder and are covered by an empty one."""
    own: list[Mount] = field(default_factory=list)

    def readable(self) -> list[str]:
        """Return the paths in the sandbox that may be read and executed, for Landlock."""
        mounts = (*self.system, *self.own)
        # A process must not make itself the last one that the kernel ends when memory runs short (oom_score_adj).
        return [mount.target for mount in mounts if not mount.writable] + ["/proc"]

    def writable(self) -> list[str]:
        """Return the paths in the sandbox that may be written, for Landlock."""
        return [mount.target for mount in self.own if mount.writable] + ["/dev"]


def plan_mounts(
    *,
    folders: Sequence[Mount],
    etc: Path,
    engine_dir: Path,
    read_only: Iterable[Path],
    protected: Iterable[Path],
) -> Plan:
    """Return the plan of a sandbox.

    ``folders`` are its own folders, ``etc`` contains the files made for its ``/etc``, ``read_only`` are more folders of
    the host that an administrator named, and ``protected`` are folders that must not be seen even if they are inside a
    mounted folder.
    """
    system, links = [Mount("/usr", "/usr")], []
    for name in _SYSTEM_LINKS:
        path = Path("/", name)
        if path.is_symlink():
            links.append((str(path.readlink()), str(path)))
        elif path.is_dir():
            system.append(Mount(str(path), str(path)))
    made = sorted(file for file in etc.rglob("*") if file.is_file())
    system += [Mount(str(file), f"/etc/{file.relative_to(etc)}") for file in made]
    for name in (*_PUBLIC_ETC, *sorted(path.name for path in Path("/etc").glob("java-*"))):
        path = Path("/etc", name)
        if path.exists():
            system.append(Mount(str(path), str(path)))
    system += [Mount(str(path), str(path)) for path in read_only if path.exists()]
    if not any(Path(mount.target).is_relative_to("/var/tmp") for mount in system):  # noqa: S108
        links.append(("/tmp", "/var/tmp"))  # noqa: S108 - paths inside the sandbox
    kept = list(dict.fromkeys(path.resolve() for path in protected))
    pythons, python_links = find_python_folders(engine_dir)
    own = [Mount(str(engine_dir), str(engine_dir))]
    for path in pythons:
        # What is inside a protected folder must be mounted after the folder was covered.
        is_inside = any(path.resolve().is_relative_to(folder) for folder in kept)
        (own if is_inside else system).append(Mount(str(path), str(path)))
    hidden = [path for folder in kept for path in _find_covers(folder, system)]
    own += [Mount(str(INSIDE), INSIDE_TARGET), *folders]
    # A folder is mounted before those below it, which it would cover otherwise, such as /tmp before an engine in /tmp.
    own.sort(key=lambda mount: len(Path(mount.target).parts))
    return Plan(system, links + python_links, list(dict.fromkeys(hidden)), own)


def _find_covers(protected: Path, mounts: Iterable[Mount]) -> Iterator[str]:
    """Yield the paths in the sandbox that must be covered so that a folder of the host is not seen."""
    for mount in mounts:
        source = Path(mount.source).resolve()
        if not source.is_dir() or not protected.is_relative_to(source):
            continue
        # A server that runs as root starts bwrap as another user, who cannot cover what is in a closed folder. Then
        # the outermost closed folder is covered.
        closed = [
            folder
            for folder in protected.parents
            if os.geteuid() == 0 and source in folder.parents and not _is_open(folder)
        ]
        cover = closed[-1] if closed else protected
        yield str(Path(mount.target) / cover.relative_to(source))


def _is_open(folder: Path) -> bool:
    """Return whether every user may enter a folder. One that does not exist is created open by bwrap."""
    return not folder.exists() or bool(folder.stat().st_mode & 0o001)


def find_python_folders(engine_dir: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """Return what the engine's virtual environment needs of its Python installation, without what is in /usr.

    These are the folders of the installation, and symbolic links to it (target, path) on the way from the environment's
    interpreter to the program. Only a folder that contains Python's library is an installation. The other links may be
    in a folder such as ``~/.local/bin``, beside which a user keeps much else.
    """
    parser = configparser.ConfigParser()
    parser.read_string("[venv]\n" + (engine_dir / "pyvenv.cfg").read_text())
    home = Path(parser["venv"]["home"])
    program = (engine_dir / "bin" / "python").resolve()
    prefixes = dict.fromkeys([home.parent, home.resolve().parent, program.parent.parent])
    folders = [
        path
        for path in prefixes
        if not path.is_relative_to("/usr") and path != Path("/") and _has_library(path)
    ]
    mounted = [engine_dir, Path("/usr"), *folders]
    links = []
    path = engine_dir / "bin" / "python"
    while path.is_symlink():
        target = path.parent / path.readlink()
        if not any(path.is_relative_to(folder) for folder in mounted):
            links.append((str(target), str(path)))
        path = target
    return folders, links


def _has_library(prefix: Path) -> bool:
    return any(prefix.glob("lib*/python3*/os.py"))


def build_arguments(plan: Plan, sources: dict[str, str]) -> list[str]:
    """Return the arguments of ``bwrap`` for a plan. ``sources`` replaces sources that are mounted from another path."""
    arguments: list[str] = []

    def add(mounts: Iterable[Mount]) -> None:
        for mount in mounts:
            option = "--bind" if mount.writable else "--ro-bind"
            arguments.extend([option, sources.get(mount.source, mount.source), mount.target])

    # A folder that bwrap creates on the way to a mount point gets the mode 0700 of the sandbox's user.
    arguments += ["--perms", "0755", "--dir", "/etc"]
    add(plan.system)
    for target, path in plan.links:
        arguments += ["--symlink", target, path]
    for path in plan.hidden:
        arguments += ["--tmpfs", path]
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    # Files in a tmpfs are memory of no process, so each tmpfs is small or read-only.
    arguments += ["--size", str(SHM_BYTES), "--perms", "1777", "--tmpfs", "/dev/shm"]  # noqa: S108
    add(plan.own)
    for path in (*plan.hidden, "/dev", "/"):
        arguments += ["--remount-ro", path]
    return arguments
