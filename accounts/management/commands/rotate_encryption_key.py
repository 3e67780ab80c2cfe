"""``manage.py rotate_encryption_key``: encrypt all stored secrets again, with the first key of ``ENCRYPTION_KEYS``."""

import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError
from django.template.defaultfilters import pluralize

from lib import resealing
from lib.commands import OperatorCommand, seconds, whole_number


class Command(OperatorCommand):
    dry_run = "count the secrets; change nothing"
    help = (
        "Encrypt every stored secret again, with the first key of ENCRYPTION_KEYS. Before you run it, put the new key "
        "first in ENCRYPTION_KEYS and restart all processes. The server can run meanwhile, and you can stop and "
        "repeat the command at any time. When the command reports that 0 secrets are left, remove the old key."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--batch",
            type=whole_number(1, 100_000),
            default=200,
            help="rows per transaction (default: 200)",
        )
        parser.add_argument(
            "--pause",
            type=seconds(0, 3_600),
            default=0.0,
            help="seconds to wait between batches (default: 0)",
        )

    def run(self, *, batch: int, pause: float, dry_run: bool, **options: Any) -> dict[str, Any]:
        encrypted: dict[str, int] = {}
        broken: list[str] = []
        for column in resealing.columns():
            left = resealing.count_old(column)
            self.say(f"{column}: {left} to encrypt")
            if dry_run:
                continue
            for result in resealing.reseal(column, batch=batch):
                broken += result.broken
                for row in result.broken:
                    self.stderr.write(f"{row} cannot be decrypted and was not changed.")
                self.say(f"{column}: {result.resealed} encrypted")
                encrypted[str(column)] = encrypted.get(str(column), 0) + result.resealed
                self.stdout.flush()
                time.sleep(pause)
        left = sum(resealing.count_old(column) for column in resealing.columns())
        self.say(f"{left} secret{pluralize(left, ' is,s are')} still encrypted with an older key.")
        if broken:
            raise CommandError(
                f"{len(broken)} secret{pluralize(broken)} cannot be decrypted. Run audit_encrypted_fields to list them."
            )
        return {"dry_run": dry_run, "encrypted": encrypted, "left": left}
