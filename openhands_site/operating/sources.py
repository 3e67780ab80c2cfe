"""The files that a server process reads at its start: code, templates, static files and settings.

A fork of ``quickstart`` has the state of these files from the start of the server. While they are unchanged, a fork
does the same as a new process.
"""

import contextlib
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings

from lib import env


def fingerprint() -> str:
    """Return a digest of the names, sizes and times of the files, which changes when one of them is changed.

    Of the installed packages, only the names and versions count. A file that cannot be read is no error. Call it after
    Django's set-up and with the modules loaded. Takes about 10 ms.
    """
    digest = hashlib.sha256()
    for path in _files():
        try:
            state = os.stat(path)  # noqa: PTH116 - faster for a thousand files
            line = f"{path} {state.st_ino} {state.st_size} {state.st_mtime_ns}"
        except OSError:
            line = f"{path} cannot be read"
        digest.update(os.fsencode(line) + b"\n")
    for folder in sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}):
        # An update of a package changes the name of its folder `NAME-VERSION.dist-info`.
        with contextlib.suppress(OSError):  # an update may replace the whole folder
            digest.update(os.fsencode("\n".join(sorted(os.listdir(folder)))))  # noqa: PTH208 - names only
    return digest.hexdigest()


def _files() -> Iterator[str]:
    own = {env.BASE_DIR / name.partition(".")[0] for name in [*sys.modules]}
    folders = own.union(settings.TEMPLATES[0]["DIRS"], settings.STATICFILES_DIRS)  # type: ignore[arg-type]
    if settings.WEB_CLIENT_DIR:
        folders.add(settings.WEB_CLIENT_DIR)
    for folder in sorted(str(folder) for folder in folders if folder.is_dir()):
        for place, inner, names in os.walk(folder):
            inner[:] = sorted(name for name in inner if name != "__pycache__")
            yield from (f"{place}/{name}" for name in sorted(names))
    single = [env.BASE_DIR / name for name in ("manage.py", "pyproject.toml", ".env")]
    single += [settings.DATA_DIR / "server.env", Path(sys.executable)]
    yield from map(str, single)
    # Files with the values of settings, such as mounted secrets.
    yield from filter(None, (os.environ.get(f"{name}_FILE") for name in sorted(env.names_read())))
