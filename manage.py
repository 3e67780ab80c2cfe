#!/usr/bin/env python
"""Runs the server's commands: `manage.py help` lists them."""

import os
import sys
from importlib import import_module

WITHOUT_SETTINGS = ("quickstart", "doctor")
"""Run before there are settings: one makes the environment they are read from, the other says what is wrong."""


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever has an older one is told by this
        sys.exit("This server needs Python 3.11 or newer; this is " + sys.version.split()[0])
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "openhands_site.settings")
    try:
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line
    except ImportError:
        sys.exit(
            "Django is not installed here. Run `make setup`, then use .venv/bin/python manage.py"
        )
    if sys.argv[1:2] and sys.argv[1] in WITHOUT_SETTINGS:
        module = import_module(f"openhands_site.management.commands.{sys.argv[1]}")
        module.Command().run_from_argv(sys.argv)
        return
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"{error} (`manage.py doctor` checks everything at once.)")


if __name__ == "__main__":
    main()
