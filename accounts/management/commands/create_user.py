"""``manage.py create_user``: create a user, a staff user or an administrator."""

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
        "Create a user. The password is read from the environment variable OH_PASSWORD or from the terminal. "
        "Without a password, the user can sign in only with an identity provider."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--email", required=True)
        parser.add_argument("--name", default="")
        parser.add_argument("--staff", action="store_true", help="allow access to the admin site")
        parser.add_argument(
            "--administrator", action="store_true", help="grant all permissions on the admin site"
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
        self.stdout.write(f"Created the user {user.email}.")

    def _password(self) -> str | None:
        if password := os.environ.get("OH_PASSWORD"):
            return password
        if not sys.stdin.isatty():
            return None
        password = getpass.getpass("Password (leave empty for none): ")
        if password and getpass.getpass("Repeat the password: ") != password:
            raise CommandError("The two passwords are different. Run the command again.")
        return password or None
