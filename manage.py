#!/usr/bin/env python
"""Runs the server's commands: `manage.py help` lists them."""

import os
import sys


def main() -> None:
    if sys.version_info < (3, 11):
        sys.exit("This server needs Python 3.11 or newer; this is " + sys.version.split()[0])
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "openhands_site.settings")
    try:
        from django.core.management import execute_from_command_line
    except ImportError:
        sys.exit("Django is not installed here. Run `make setup`, then use .venv/bin/python manage.py")
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
