"""``manage.py audit_encrypted_fields``: which stored secrets do not open, and which keys are in use."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from lib import resealing


class Command(BaseCommand):
    help = (
        "Open every stored secret, without showing it; name those that do not open (exit code 1)."
    )

    def handle(self, **options: Any) -> None:
        broken = 0
        for column in resealing.columns():
            keys, bad = resealing.audit(column)
            used = ", ".join(f"{key}: {number}" for key, number in sorted(keys.items())) or "none"
            self.stdout.write(f"{column}: {used}")
            for place in bad:
                self.stdout.write(f"  {place} does not open")
            broken += len(bad)
        if broken:
            raise CommandError(f"{broken} secrets do not open.")
