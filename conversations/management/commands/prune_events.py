"""Remove old events of conversations whose sandbox is not running."""

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from conversations import services


class Command(BaseCommand):
    help = (
        "Remove events older than a number of days from conversations whose sandbox is not running."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than-days",
            type=int,
            required=True,
            help="Remove events that are older than this number of days.",
        )
        parser.add_argument(
            "--reason", required=True, help="The reason, which is written to the audit log."
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="Only count the events; remove nothing."
        )

    def handle(
        self, *args: Any, older_than_days: int, reason: str, dry_run: bool, **options: Any
    ) -> None:
        before = timezone.now() - timedelta(days=max(0, older_than_days))
        pruned = services.prune_events(before=before, reason=reason, dry_run=dry_run)
        verb = "Would remove" if dry_run else "Removed"
        self.stdout.write(
            f"{verb} {pruned.events} event(s) from {pruned.conversations} conversation(s)."
        )
