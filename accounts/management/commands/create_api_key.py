"""``manage.py create_api_key``: create an API key and print only the key."""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from accounts import services
from lib.commands import OperatorCommand, whole_number

LIMIT = 1_000_000
"""The range of numbers that the parser reads. The command itself names the limit of the server."""


class Command(OperatorCommand):
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
            type=whole_number(-LIMIT, LIMIT),
            help="days until the key expires (default: the longest that the server allows)",
        )

    def run(self, **options: Any) -> dict[str, Any]:
        if options["days"] is not None and options["days"] < 1:
            raise CommandError("--days must be a whole number of at least 1.")
        if (options["days"] or 0) > settings.API_KEY_MAX_DAYS:
            raise CommandError(
                f"--days must be at most {settings.API_KEY_MAX_DAYS}, the limit of this server (API_KEY_MAX_DAYS)."
            )
        if not 0 < len(options["name"].strip()) <= services.KEY_NAME_MAX:
            raise CommandError(f"--name must have 1 to {services.KEY_NAME_MAX} characters.")
        row, key = services.issue_api_key(
            user=services.find_user(email=options["email"]),
            name=options["name"].strip(),
            scopes=options["scope"],
            days=options["days"],
        )
        self.say(key)
        return {
            "key": key,
            "prefix": row.prefix,
            "scopes": row.scopes,
            "expires_at": row.expires_at,
        }
