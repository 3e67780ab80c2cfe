"""Shows what a provider's claim rules give, and applies them anew to the claims last seen."""

import json
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.models import Identity, Organization
from accounts.services import claimed_roles, identity_providers
from lib.problems import Problem


class Command(BaseCommand):
    help = "Preview a provider's claim rules on given claims, or apply them to everybody's last claims."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("provider", help="the provider's slug")
        parser.add_argument(
            "--claims", help="a file of claims as JSON (- for standard input): show, change nothing"
        )
        parser.add_argument("--dry-run", action="store_true", help="show what everybody would get")

    def handle(
        self, *args: Any, provider: str, claims: str | None, dry_run: bool, **options: Any
    ) -> None:
        try:
            row = identity_providers.find_provider(slug=provider)
            if claims:
                self._show(
                    "these claims", claimed_roles.evaluate_rules(row.claim_rules, _read(claims))
                )
                return
            found = Identity.objects.filter(provider=row).select_related("user", "provider")
            for one in found.iterator():
                wanted = claimed_roles.evaluate_rules(row.claim_rules, one.last_claims)
                self._show(one.user.email, wanted)
                if not dry_run:
                    claimed_roles.apply_claims(identity=one, claims=one.last_claims)
        except Problem as error:
            raise CommandError(error.detail) from error
        except claimed_roles.BadRule as error:
            raise CommandError(f"A rule of {provider} is wrong: {error}") from error
        self.stdout.write(f"{'Would map' if dry_run else 'Mapped'} {found.count()} people.")

    def _show(self, who: str, wanted: claimed_roles.RuleResult) -> None:
        names = dict(Organization.objects.filter(pk__in=wanted.roles).values_list("pk", "name"))
        given = [
            f"{role} of {names.get(pk, f'{pk}, which does not exist')}"
            for pk, role in wanted.roles.items()
        ]
        given += ["staff"] if wanted.is_staff else []
        self.stdout.write(f"{who}: {', '.join(given) or 'nothing'}")


def _read(name: str) -> dict[str, Any]:
    try:
        claims = json.loads(sys.stdin.read() if name == "-" else Path(name).read_text())
    except (OSError, ValueError) as error:
        raise CommandError(f"{name} holds no claims: {error}") from error
    if not isinstance(claims, dict):
        raise CommandError(f"{name} holds no JSON object.")
    return claims
