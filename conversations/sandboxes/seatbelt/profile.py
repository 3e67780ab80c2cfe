"""The sandbox profile of macOS (``sandbox-exec``) for one sandbox. It was never run on macOS.

The language is that of ``sandbox-exec -f``: everything is denied that no rule allows, and the last matching rule wins.
"""

from collections.abc import Sequence
from pathlib import Path

READABLE = (
    "/System",
    "/Library/Apple",
    "/Library/Developer/CommandLineTools",
    "/Library/Frameworks",
    "/Library/Java",
    "/Library/Preferences/Logging",
    "/bin",
    "/dev",
    "/opt/homebrew",
    "/opt/local",
    "/private/etc/localtime",
    "/private/etc/paths",
    "/private/etc/paths.d",
    "/private/etc/profile",
    "/private/etc/protocols",
    "/private/etc/services",
    "/private/etc/shells",
    "/private/etc/ssl",
    "/private/var/db/dyld",
    "/private/var/db/timezone",
    "/private/var/select",
    "/sbin",
    "/usr",
)
"""The folders of the system. They contain no data of users."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx")
SERVICES = (
    "com.apple.system.logger",
    "com.apple.system.notification_center",
    "com.apple.system.opendirectoryd.libinfo",
)
"""The system services that command line programs need. None of them opens a network connection or a file of a user."""


def build_profile(
    *,
    writable: Sequence[Path],
    readable: Sequence[Path],
    sockets: Path,
    engine_port: int,
    proxy_port: int,
) -> str:
    """Return the text of a profile.

    ``writable`` and ``readable`` are folders besides the system's; ``sockets`` is the folder for Unix sockets of
    terminals. The engine may listen on ``engine_port``, and only it and ``proxy_port`` can be connected to. All paths
    must be real paths, because macOS checks paths after it followed symbolic links. Raise ``ValueError`` for a path
    that is not absolute or cannot be written in a profile.
    """
    own = [_subpath(path) for path in writable]
    seen = [*(_subpath(Path(path)) for path in READABLE), *(_subpath(path) for path in readable)]
    devices = " ".join(f'(literal "{device}")' for device in DEVICES)
    services = " ".join(f'(global-name "{name}")' for name in SERVICES)
    return f"""\
(version 1)
(deny default)
(allow process-fork)
(allow process-exec)
(allow process-info* (target same-sandbox))
(allow signal (target same-sandbox))
(allow sysctl-read)
(allow pseudo-tty)
(allow ipc-posix-sem)
(allow mach-lookup {services})
(allow file-read-metadata)
(allow file-read* (literal "/"))
(allow file-read*
  {_lines([*seen, *own])})
(allow file-write*
  {_lines(own)})
(allow file-write-data file-ioctl {devices})
(allow file-read* file-write* file-ioctl (regex #"^/dev/ttys[0-9]+$"))
(allow network-bind network-inbound (local tcp "localhost:{engine_port}"))
(allow network-outbound (remote tcp "localhost:{engine_port}"))
(allow network-outbound (remote tcp "localhost:{proxy_port}"))
(allow network-bind network-inbound (local unix-socket {_subpath(sockets)}))
(allow network-outbound (remote unix-socket {_subpath(sockets)}))
"""


def _lines(rules: Sequence[str]) -> str:
    return "\n  ".join(dict.fromkeys(rules))


def _subpath(path: Path) -> str:
    text = str(path)
    if not path.is_absolute() or any(ord(character) < 32 for character in text):
        raise ValueError(f"{text!r} cannot be named in a sandbox profile.")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'(subpath "{escaped}")'
