"""Small JSON files that are replaced atomically, so that a reader never sees half a file."""

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or ``{}`` if the file is missing or contains no JSON object.

    Raise ``OSError`` if the file cannot be read, for example because this process has too many open files.
    """
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object to another file, which only its owner may read, and rename that file."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    try:
        with open(partial, "w", opener=open_private) as file:
            file.write(json.dumps(value))
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)  # for example on a full disk
        raise


def open_private(path: str, flags: int) -> int:
    """Open a file, creating it for its owner only. Pass this function as ``opener`` to ``open``."""
    return os.open(path, flags, 0o600)
