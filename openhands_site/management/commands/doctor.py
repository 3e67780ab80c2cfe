"""The ``doctor`` command: check the installation and print one line per check, with the fix if it fails.

``manage.py`` runs this command without loading the settings first, so that it can also report invalid settings.
"""

import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from openhands_site.doctor import FAILED, OK, SKIPPED, WARNING, Check, run_checks


class Command(BaseCommand):
    help = (
        "Check settings, database, Redis, storage, the agent engine and security. The exit status is 1 if a check "
        "fails."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--json", action="store_true", help="print the report as one JSON object"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        checks = []
        for check in run_checks():
            checks.append(check)
            if not options["json"]:
                self.stdout.write(self._line(check))
        failed = sum(check.state == FAILED for check in checks)
        warned = sum(check.state == WARNING for check in checks)
        if options["json"]:
            report = {"ok": not failed, "checks": [_record(check) for check in checks]}
            self.stdout.write(json.dumps(report, indent=2))
        else:
            self.stdout.write(
                f"\n{len(checks)} checks: {failed} failed, {warned} warning{'' if warned == 1 else 's'}."
            )
        if failed:
            sys.exit(1)

    def _line(self, check: Check) -> str:
        paint = {
            OK: self.style.SUCCESS,
            WARNING: self.style.WARNING,
            FAILED: self.style.ERROR,
            SKIPPED: self.style.WARNING,
        }
        return f"{paint[check.state](f'{check.state:<8}')} {check.name:<16} {check.detail}"


def _record(check: Check) -> dict[str, str]:
    return {"id": check.id, "name": check.name, "state": check.state, "detail": check.detail}
