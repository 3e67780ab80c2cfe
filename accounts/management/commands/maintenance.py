"""``manage.py maintenance``: close the server, open it, or say which it is."""

from argparse import ArgumentParser, ArgumentTypeError
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand

from accounts.services import maintenance


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ArgumentTypeError("a time with its zone, such as 2030-01-31T22:00Z")
    return found


class Command(BaseCommand):
    help = "Close the server for maintenance (staff still pass), open it again, or say which it is."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("what", choices=("on", "off", "plan", "status"))
        parser.add_argument(
            "--at",
            type=_time,
            default=None,
            help="with plan: when it begins, as 2030-01-31T22:00Z; without it, a plan is dropped",
        )
        parser.add_argument("--sentence", default="", help="what people are told")
        parser.add_argument(
            "--retry-after", type=int, default=300, help="seconds until they may come back"
        )
        parser.add_argument("--reason", default="", help="for the audit log")

    def handle(self, **options: Any) -> None:
        if options["what"] == "plan":
            maintenance.plan_maintenance(at=options["at"], reason=options["reason"])
        elif options["what"] != "status":
            maintenance.set_maintenance(
                is_on=options["what"] == "on",
                sentence=options["sentence"][:300],
                retry_after=max(1, options["retry_after"]),
                reason=options["reason"],
            )
        maintenance.clear_cache()
        switch = maintenance.maintenance()
        self.stdout.write(f"Maintenance is {switch}.")
        if switch.planned_for:
            self.stdout.write(f"It is planned for {switch.planned_for.isoformat()}.")
        if switch.is_on:
            self.stdout.write(switch.sentence or maintenance.SENTENCE)
