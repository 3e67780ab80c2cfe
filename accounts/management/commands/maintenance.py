"""``manage.py maintenance``: turn maintenance mode on or off, plan it, or print its state."""

from argparse import ArgumentParser, ArgumentTypeError
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand

from accounts.services import maintenance


def _parse_time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ArgumentTypeError("the time needs a time zone, such as 2030-01-31T22:00Z")
    return time


class Command(BaseCommand):
    help = (
        "Turn maintenance mode on or off, announce a planned maintenance, or print the state. While maintenance mode "
        "is on, only staff can use the server."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=("on", "off", "plan", "status"))
        parser.add_argument(
            "--at",
            type=_parse_time,
            default=None,
            help="with plan: the start, such as 2030-01-31T22:00Z; without --at, the plan is cancelled",
        )
        parser.add_argument(
            "--sentence", default="", help="message to show to users (up to 300 characters)"
        )
        parser.add_argument(
            "--retry-after",
            type=int,
            default=300,
            help="seconds after which clients should try again (default: 300)",
        )
        parser.add_argument("--reason", default="", help="reason to record in the audit log")

    def handle(self, **options: Any) -> None:
        if options["action"] == "plan":
            maintenance.plan_maintenance(at=options["at"], reason=options["reason"])
        elif options["action"] != "status":
            maintenance.set_maintenance(
                is_on=options["action"] == "on",
                sentence=options["sentence"][:300],
                retry_after=max(1, options["retry_after"]),
                reason=options["reason"],
            )
        maintenance.clear_cache()  # print the new state, not the cached one
        state = maintenance.maintenance()
        self.stdout.write(f"Maintenance is {state}.")
        if state.planned_for:
            self.stdout.write(f"Maintenance is planned for {state.planned_for.isoformat()}.")
        if state.is_on:
            self.stdout.write(state.sentence or maintenance.SENTENCE)
