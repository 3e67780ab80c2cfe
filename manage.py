#!/usr/bin/env python
"""The command-line entry point of the server. `manage.py help` lists the commands."""

import os
import sys
from importlib import import_module

WITHOUT_SETTINGS = ("quickstart", "doctor", "help")
"""Commands that run without loading the settings first.

``quickstart`` creates the environment that the settings are read from, ``doctor`` explains invalid settings, and
``help`` lists the commands.
"""
ROLES = ("run_web", "run_realtime", "run_worker", "run_conversation_manager", "run_grpc")
"""Commands that run until they are stopped, and so need a pool of database connections."""


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - this line is for users of an older version
        sys.exit(
            "This server needs Python 3.11 or newer, but this is Python " + sys.version.split()[0]
        )
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "openhands_site.settings")
    try:
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line
    except ImportError:
        sys.exit(
            "Django is not installed in this Python environment. Run `make setup`, then use "
            "`.venv/bin/python manage.py`."
        )
    if len(sys.argv) == 1 or sys.argv[1] in ("--help", "-h"):
        sys.argv[1:] = ["help"]
    name = sys.argv[1]
    if name in WITHOUT_SETTINGS:
        module = import_module(f"openhands_site.management.commands.{name}")
        module.Command().run_from_argv(sys.argv)
        return
    if name not in ROLES:
        # Without a pool, an unreachable database is reported at once, and without the pool's own log lines.
        os.environ["DATABASE_POOL_SIZE"] = "0"
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        from lib import env

        sys.exit(f"{error} {env.explain_missing()} Run `manage.py doctor` to check all settings.")
    except Exception as error:
        from lib.reachability import explain_failure

        if (sentence := explain_failure(error)) is None or "--traceback" in sys.argv:
            raise
        sys.exit(f"{sentence} Run `manage.py doctor` to check all services.")


if __name__ == "__main__":
    main()
