"""``manage.py reset_second_factor``: remove the second factor of a user who lost the app and the codes."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts import services
from accounts.services import second_factor
from lib.problems import Problem


class Command(BaseCommand):
    help = (
        "Remove a user's second factor and sign the user out everywhere. Verify the identity of the person who asks: "
        "until the user sets up a new second factor, the password alone is enough to sign in."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--email", required=True, help="e-mail address of the user")
        parser.add_argument("--reason", required=True, help="reason to record in the audit log")

    def handle(self, *, email: str, reason: str, **options: Any) -> None:
        try:
            user = services.find_user(email=email)
            second_factor.reset_second_factor(user=user, reason=reason)
        except Problem as error:
            raise CommandError(error.detail) from error
        self.stdout.write(f"Removed the second factor of {user.email}.")
