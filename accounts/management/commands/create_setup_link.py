"""``manage.py create_setup_link``: create a one-time link with which a person creates an administrator account."""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.core.validators import validate_email

from accounts import services


class Command(BaseCommand):
    help = "Print a one-time link. The person who opens it creates an administrator account."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--email",
            default="",
            help="e-mail address to fill in on the page; the person can change it there",
        )

    def handle(self, **options: Any) -> None:
        email = options["email"].strip()
        try:
            if email:
                validate_email(email)
        except ValidationError as error:
            raise CommandError(f"--email must be an e-mail address, not {email!r}.") from error
        self.stdout.write(settings.PUBLIC_URL + services.create_setup_link(email=email))
