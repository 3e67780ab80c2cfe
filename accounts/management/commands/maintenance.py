"""``manage.py maintenance``: close the server, open it, or say which it is."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from accounts.services import maintenance


class Command(BaseCommand):
    help = "Close the server for maintenance (staff still pass), open it again, or say which it is."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("what", choices=("on", "off", "status"))
        parser.add_argument("--sentence", default="", help="what people are told")
        parser.add_argument(
            "--retry-after", type=int, default=300, help="seconds until they may come back"
        )
        parser.add_argument("--reason", default="", help="for the audit log")

    def handle(self, **options: Any) -> None:
        if options["what"] != "status":
            maintenance.set_maintenance(
                is_on=options["what"] == "on",
                sentence=options["sentence"][:300],
                retry_after=max(1, options["retry_after"]),
                reason=options["reason"],
            )
        maintenance.forget()
        switch = maintenance.maintenance()
        self.stdout.write(f"Maintenance is {switch}.")
        if switch.is_on:
            self.stdout.write(switch.sentence or maintenance.SENTENCE)
