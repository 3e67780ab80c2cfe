"""Removes old events of logs that rest."""

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from conversations import services


class Command(BaseCommand):
    help = "Remove events older than so many days from conversations whose sandbox does not run."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--older-than-days", type=int, required=True)
        parser.add_argument("--reason", required=True, help="why, for the audit log")
        parser.add_argument("--dry-run", action="store_true", help="count, and remove nothing")

    def handle(
        self, *args: Any, older_than_days: int, reason: str, dry_run: bool, **options: Any
    ) -> None:
        before = timezone.now() - timedelta(days=max(0, older_than_days))
        found = services.prune_events(before=before, reason=reason, dry_run=dry_run)
        verb = "would be removed" if dry_run else "removed"
        self.stdout.write(f"{found.events} events of {found.conversations} conversations {verb}")
