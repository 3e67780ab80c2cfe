"""``manage.py create_setup_link``: create a one-time link with which a person creates an administrator account."""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError
from django.core.validators import validate_email

from accounts import services
from lib.commands import OperatorCommand


class Command(OperatorCommand):
    help = "Print a one-time link. The person who opens it creates an administrator account."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--email",
            default="",
            help="e-mail address to fill in on the page; the person can change it there",
        )

    def run(self, **options: Any) -> dict[str, Any]:
        email = options["email"].strip()
        try:
            if email:
                validate_email(email)
        except ValidationError as error:
            raise CommandError(f"--email must be an e-mail address, not {email!r}.") from error
        url = settings.PUBLIC_URL + services.create_setup_link(email=email)
        self.say(url)
        return {"url": url, "seconds": settings.SETUP_LINK_SECONDS}
