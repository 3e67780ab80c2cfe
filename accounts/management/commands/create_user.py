"""``manage.py create_user``: somebody who can sign in."""

import getpass
import os
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts import services
from lib.problems import Problem


class Command(BaseCommand):
    help = (
        "Create a user. The password comes from OH_PASSWORD or is asked for at a terminal; without either, "
        "the user cannot sign in by password."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--email", required=True)
        parser.add_argument("--name", default="")
        parser.add_argument("--staff", action="store_true", help="may open the admin desk")
        parser.add_argument(
            "--administrator", action="store_true", help="may do everything on the admin desk"
        )

    def handle(self, **options: Any) -> None:
        try:
            user = services.create_user(
                email=options["email"],
                name=options["name"],
                is_staff=options["staff"] or options["administrator"],
                is_superuser=options["administrator"],
                password=self._password(),
            )
        except Problem as error:
            raise CommandError(error.detail) from error
        self.stdout.write(f"{user.email} was created.")

    def _password(self) -> str | None:
        if given := os.environ.get("OH_PASSWORD"):
            return given
        if not sys.stdin.isatty():
            return None
        first = getpass.getpass("Password (empty for none): ")
        if first and getpass.getpass("Once more: ") != first:
            raise CommandError("The two passwords differ.")
        return first or None
