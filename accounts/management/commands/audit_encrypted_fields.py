"""``manage.py audit_encrypted_fields``: find stored secrets that cannot be decrypted; count the secrets per key."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.template.defaultfilters import pluralize

from lib import crypto, resealing


class Command(BaseCommand):
    help = (
        "Decrypt every stored secret without showing it. Print how many secrets each key encrypts, and list the "
        "secrets that cannot be decrypted (exit code 1)."
    )

    def handle(self, **options: Any) -> None:
        failures = 0
        for column in resealing.columns():
            keys, failed_rows = resealing.audit(column)
            used = ", ".join(f"{key}: {number}" for key, number in sorted(keys.items())) or "none"
            self.stdout.write(f"{column}: {used}")
            for row in failed_rows:
                kind = crypto.describe_sealed(row)
                text = f": {kind.name} cannot be decrypted. {kind.remedy}" if kind else ""
                self.stdout.write(f"  {row}{text or ' cannot be decrypted'}")
            failures += len(failed_rows)
        if failures:
            raise CommandError(
                f"{failures} secret{pluralize(failures)} cannot be decrypted. Add the missing keys to "
                "ENCRYPTION_KEYS, or enter the secrets again."
            )
