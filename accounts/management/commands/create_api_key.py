"""``manage.py create_api_key``: create an API key and print only the key."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts import services
from lib.problems import Problem


class Command(BaseCommand):
    help = "Create an API key. Only the key is printed to standard output, so that scripts can read it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--email", required=True, help="e-mail address of the key's owner")
        parser.add_argument(
            "--name", required=True, help="name of the key, shown in the list of keys"
        )
        parser.add_argument(
            "--scope",
            action="extend",
            nargs="+",
            default=[],
            help="permissions of the key; may be repeated (default: all permissions of the owner)",
        )
        parser.add_argument(
            "--days",
            type=int,
            help="days until the key expires (default: the longest that the server allows)",
        )

    def handle(self, **options: Any) -> None:
        if options["days"] is not None and options["days"] < 1:
            raise CommandError("--days must be a whole number of at least 1.")
        if not 0 < len(options["name"].strip()) <= services.KEY_NAME_MAX:
            raise CommandError(f"--name must have 1 to {services.KEY_NAME_MAX} characters.")
        try:
            _, key = services.issue_api_key(
                user=services.find_user(email=options["email"]),
                name=options["name"].strip(),
                scopes=options["scope"],
                days=options["days"],
            )
        except Problem as error:
            raise CommandError(error.detail) from error
        self.stdout.write(key)
