"""Install the packages of a requirements file: ``python -m lib.python_packages requirements.lock .venv``."""

from __future__ import annotations

import sys
from pathlib import Path

from lib.python_packages import environments
from lib.python_packages.pip_program import Impossible
from lib.python_packages.running import say


def main(arguments: list[str]) -> int:
    """Install, and return the exit code: 1 after a sentence about a failure, 130 after Ctrl-C."""
    lock, folder = map(Path, arguments)
    try:
        environments.install(lock, folder)
    except Impossible as sentence:
        say(str(sentence))
        return 1
    except OSError as error:
        say(f"{folder} could not be written: {error.strerror}: {error.filename}.")
        return 1
    except KeyboardInterrupt:
        say("Interrupted. Run the command again to continue.")
        return 130
    return 0


sys.exit(main(sys.argv[1:]))
