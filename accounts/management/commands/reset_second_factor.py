"""``manage.py reset_second_factor``: remove the second factor of a user who lost the app and the codes."""

from argparse import ArgumentParser
from typing import Any

from accounts import services
from accounts.services import second_factor
from lib.commands import OperatorCommand, filled


class Command(OperatorCommand):
    help = (
        "Remove a user's second factor and sign the user out everywhere. Verify the identity of the person who asks: "
        "until the user sets up a new second factor, the password alone is enough to sign in."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--email", required=True, help="e-mail address of the user")
        parser.add_argument(
            "--reason", required=True, type=filled(1_000), help="reason to record in the audit log"
        )

    def run(self, *, email: str, reason: str, **options: Any) -> dict[str, Any]:
        user = services.find_user(email=email)
        second_factor.reset_second_factor(user=user, reason=reason)
        self.say(f"Removed the second factor of {user.email}.")
        return {"email": user.email}
