"""``manage.py create_setup_link``: the way in for the first administrator, or for another one."""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.core.validators import validate_email

from accounts import services


class Command(BaseCommand):
    help = "Print an address under which somebody becomes an administrator, once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--email", default="", help="fills in the form; may be changed there")

    def handle(self, **options: Any) -> None:
        email = options["email"].strip()
        try:
            if email:
                validate_email(email)
        except ValidationError as error:
            raise CommandError(f"{email!r} is not an e-mail address.") from error
        self.stdout.write(settings.PUBLIC_URL + services.create_setup_link(email=email))
