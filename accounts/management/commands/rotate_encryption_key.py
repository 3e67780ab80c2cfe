"""``manage.py rotate_encryption_key``: encrypt all stored secrets again, with the first key of ``ENCRYPTION_KEYS``."""

import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.template.defaultfilters import pluralize

from lib import resealing


class Command(BaseCommand):
    help = (
        "Encrypt every stored secret again, with the first key of ENCRYPTION_KEYS. Before you run it, put the new key "
        "first in ENCRYPTION_KEYS and restart all processes. The server can run meanwhile, and you can stop and "
        "repeat the command at any time. When the command reports that 0 secrets are left, remove the old key."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--batch", type=int, default=200, help="rows per transaction (default: 200)"
        )
        parser.add_argument(
            "--pause", type=float, default=0.0, help="seconds to wait between batches (default: 0)"
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="count the secrets; change nothing"
        )

    def handle(self, *, batch: int, pause: float, dry_run: bool, **options: Any) -> None:
        failures = 0
        for column in resealing.columns():
            left = resealing.count_old(column)
            self.stdout.write(f"{column}: {left} to encrypt")
            if dry_run:
                continue
            for result in resealing.reseal(column, batch=max(1, batch)):
                failures += len(result.broken)
                for row in result.broken:
                    self.stderr.write(f"{row} cannot be decrypted and was not changed.")
                self.stdout.write(f"{column}: {result.resealed} encrypted")
                self.stdout.flush()
                time.sleep(pause)
        left = sum(resealing.count_old(column) for column in resealing.columns())
        self.stdout.write(
            f"{left} secret{pluralize(left, ' is,s are')} still encrypted with an older key."
        )
        if failures:
            raise CommandError(
                f"{failures} secret{pluralize(failures)} cannot be decrypted. Run audit_encrypted_fields to list them."
            )
