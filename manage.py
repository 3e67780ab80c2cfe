#!/usr/bin/env python
"""The command-line entry point of the server. `manage.py help` lists the commands."""

import os
import sys
from importlib import import_module

WITHOUT_SETTINGS = ("quickstart", "doctor")
"""Commands that run without loading the settings first.

``quickstart`` creates the environment that the settings are read from, and ``doctor`` explains invalid settings.
"""


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
    if sys.argv[1:2] and sys.argv[1] in WITHOUT_SETTINGS:
        module = import_module(f"openhands_site.management.commands.{sys.argv[1]}")
        module.Command().run_from_argv(sys.argv)
        return
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"{error} Run `manage.py doctor` to check all settings.")


if __name__ == "__main__":
    main()
