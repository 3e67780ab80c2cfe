"""``manage.py audit_encrypted_fields``: find stored secrets that cannot be decrypted; count the secrets per key."""

from typing import Any

from django.core.management.base import CommandError
from django.template.defaultfilters import pluralize

from lib import crypto, resealing
from lib.commands import OperatorCommand


class Command(OperatorCommand):
    help = (
        "Decrypt every stored secret without showing it. Print how many secrets each key encrypts, and list the "
        "secrets that cannot be decrypted (exit code 1)."
    )

    def run(self, **options: Any) -> dict[str, Any]:
        failures, counts = 0, {}
        for column in resealing.columns():
            keys, failed_rows = resealing.audit(column)
            counts[str(column)] = dict(sorted(keys.items()))
            used = ", ".join(f"{key}: {number}" for key, number in sorted(keys.items())) or "none"
            self.say(f"{column}: {used}")
            for row in failed_rows:
                kind = crypto.describe_sealed(row)
                text = f": {kind.name} cannot be decrypted. {kind.remedy}" if kind else ""
                self.say(f"  {row}{text or ' cannot be decrypted'}")
            failures += len(failed_rows)
        if failures:
            raise CommandError(
                f"{failures} secret{pluralize(failures)} cannot be decrypted. Add the missing keys to "
                "ENCRYPTION_KEYS, or enter the secrets again."
            )
        return {"secrets_per_key": counts}
