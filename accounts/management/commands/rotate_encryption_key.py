"""``manage.py rotate_encryption_key``: seal every secret with the ring's first key, while the server runs."""

import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from lib import resealing


class Command(BaseCommand):
    help = (
        "Seal every stored secret with the first key of ENCRYPTION_KEYS. Put the new key in front and restart "
        "all processes first; stop and start this as you like; take the old key away when it says 0 are left."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--batch", type=int, default=200, help="rows of one transaction")
        parser.add_argument("--pause", type=float, default=0.0, help="seconds between batches")
        parser.add_argument("--dry-run", action="store_true", help="count, change nothing")

    def handle(self, *, batch: int, pause: float, dry_run: bool, **options: Any) -> None:
        broken = 0
        for column in resealing.columns():
            left = resealing.count_old(column)
            self.stdout.write(f"{column}: {left} to do")
            if dry_run:
                continue
            for done in resealing.reseal(column, batch=max(1, batch)):
                broken += len(done.broken)
                for place in done.broken:
                    self.stderr.write(f"{place} does not open; it stays as it is.")
                self.stdout.write(f"{column}: {done.resealed} resealed")
                self.stdout.flush()
                time.sleep(pause)
        left = sum(resealing.count_old(column) for column in resealing.columns())
        self.stdout.write(f"{left} left on older keys.")
        if broken:
            raise CommandError(f"{broken} secrets do not open; audit_encrypted_fields lists them.")
