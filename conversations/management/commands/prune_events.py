"""Remove old events of conversations whose sandbox is not running."""

from datetime import timedelta
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from conversations import services
from lib.commands import OperatorCommand, filled, whole_number


class Command(OperatorCommand):
    dry_run = "only count the events; remove nothing"
    help = (
        "Remove events older than a number of days from conversations whose sandbox is not running."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than-days",
            type=whole_number(0, 36_500),
            required=True,
            help="Remove events that are older than this number of days.",
        )
        parser.add_argument(
            "--reason",
            required=True,
            type=filled(1_000),
            help="The reason, which is written to the audit log.",
        )

    def run(
        self, *, older_than_days: int, reason: str, dry_run: bool, **options: Any
    ) -> dict[str, Any]:
        before = timezone.now() - timedelta(days=older_than_days)
        pruned = services.prune_events(before=before, reason=reason, dry_run=dry_run)
        verb = "Would remove" if dry_run else "Removed"
        self.say(f"{verb} {pruned.events} event(s) from {pruned.conversations} conversation(s).")
        return {
            "dry_run": dry_run,
            "before": before,
            "events": pruned.events,
            "conversations": pruned.conversations,
        }
