"""``manage.py createsuperuser``: create an administrator. This replaces Django's own ``createsuperuser``."""

from argparse import ArgumentParser

from accounts.management.commands import create_user


class Command(create_user.Command):
    help = (
        "Create an administrator, like `create_user --administrator`. This replaces Django's command, which would "
        "create a user without a personal organization and without an entry in the audit log."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.set_defaults(administrator=True)
