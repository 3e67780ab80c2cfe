"""``manage.py create_api_key``: a key for a program, alone on standard output."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts import services
from lib.problems import Problem


class Command(BaseCommand):
    help = "Make an API key and print it, and nothing else, on standard output."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--email", required=True, help="whose key it is")
        parser.add_argument("--name", required=True, help="what it is for")
        parser.add_argument(
            "--scope",
            action="extend",
            nargs="+",
            default=[],
            help="a permission name; repeat it or list several; none means all of the owner's",
        )
        parser.add_argument("--days", type=int, help="until it expires")

    def handle(self, **options: Any) -> None:
        if options["days"] is not None and options["days"] < 1:
            raise CommandError("--days takes a whole number from 1.")
        if not 0 < len(options["name"].strip()) <= services.KEY_NAME_MAX:
            raise CommandError(f"--name takes 1 to {services.KEY_NAME_MAX} characters.")
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
