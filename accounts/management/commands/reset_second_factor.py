"""``manage.py reset_second_factor``: for somebody who lost the app and the recovery codes."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts import services
from accounts.services import second_factor
from lib.problems import Problem


class Command(BaseCommand):
    help = (
        "Take somebody's second factor away and sign them out everywhere. Make sure who asks: until another is "
        "set up, the password alone signs in."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--email", required=True)
        parser.add_argument("--reason", required=True, help="kept in the audit log")

    def handle(self, *, email: str, reason: str, **options: Any) -> None:
        try:
            user = services.find_user(email=email)
            second_factor.reset_second_factor(user=user, reason=reason)
        except Problem as error:
            raise CommandError(error.detail) from error
        self.stdout.write(f"The second factor of {user.email} is reset.")
