"""``manage.py create_user``: create a user, a staff user or an administrator."""

import getpass
import os
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from accounts import services
from accounts.services import identity_providers
from lib import url_guard
from lib.commands import OperatorCommand

NAME_MAX = 80
"""The length of an organization's name. The personal organization gets the name of its user."""


class Command(OperatorCommand):
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

    def run(self, **options: Any) -> dict[str, Any]:
        if len(options["name"]) > NAME_MAX:
            raise CommandError(f"--name must have at most {NAME_MAX} characters.")
        password = self._password()
        user = services.create_user(
            email=options["email"],
            name=options["name"].strip(),
            is_staff=options["staff"] or options["administrator"],
            is_superuser=options["administrator"],
            password=password,
        )
        self.say(f"Created the user {user.email}.")
        if sentence := url_guard.explain_single_user():
            self.say(sentence)
        if password is None:
            self.say(self._explain_no_password(user.email))
        return {
            "id": user.pk,
            "email": user.email,
            "is_staff": user.is_staff,
            "is_administrator": user.is_superuser,
            "has_password": password is not None,
        }

    def _explain_no_password(self, email: str) -> str:
        command = f"`manage.py changepassword {email}`"
        if identity_providers.enabled_providers():
            return (
                "The user has no password and can sign in only with an identity provider. To set a password, run "
                f"{command}."
            )
        return (
            "The user has no password, and this server has no identity provider: nobody can sign in with this "
            f"account yet. Set a password with {command}, or set OH_PASSWORD before you create a user."
        )

    def _password(self) -> str | None:
        if password := os.environ.get("OH_PASSWORD"):
            return password
        if not sys.stdin.isatty():
            return None
        password = getpass.getpass("Password (leave empty for none): ")
        if password and getpass.getpass("Repeat the password: ") != password:
            raise CommandError("The two passwords are different. Run the command again.")
        return password or None
