"""``manage.py createsuperuser``: Django's name for creating an administrator."""

from argparse import ArgumentParser

from accounts.management.commands import create_user


class Command(create_user.Command):
    help = (
        "Create an administrator, as `create_user --administrator` does. Django's own command would create a user "
        "without a personal organization and without an entry in the audit log."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.set_defaults(administrator=True)
