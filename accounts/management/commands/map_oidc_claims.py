"""``manage.py map_oidc_claims``: preview an identity provider's claim rules, or apply them to the provider's users."""

import json
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.template.defaultfilters import pluralize

from accounts.models import Identity, Organization
from accounts.services import claimed_roles, identity_providers
from lib.commands import OperatorCommand


class Command(OperatorCommand):
    dry_run = "print the roles of each user; change nothing"
    help = (
        "Apply a provider's claim rules to the stored claims of each user, or preview the result. Run this command "
        "after you change the rules. Otherwise a user's roles change only when the user signs in again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("provider", help="slug of the identity provider")
        parser.add_argument(
            "--claims",
            help="JSON file with claims (- for standard input); print the roles for these claims, change nothing",
        )

    def run(
        self, *, provider: str, claims: str | None, dry_run: bool, **options: Any
    ) -> dict[str, Any]:
        self.rows: list[dict[str, Any]] = []
        row = identity_providers.find_provider(slug=provider)
        try:
            if claims:
                grant = claimed_roles.evaluate_rules(row.claim_rules, _read_claims(claims))
                self._print("these claims", grant)
                return {"dry_run": True, "users": self.rows}
            identities = Identity.objects.filter(provider=row).select_related("user", "provider")
            for identity in identities.iterator():
                grant = claimed_roles.evaluate_rules(row.claim_rules, identity.last_claims)
                self._print(identity.user.email, grant)
                if not dry_run:
                    claimed_roles.apply_claims(identity=identity, claims=identity.last_claims)
        except claimed_roles.BadRule as error:
            raise CommandError(f"A claim rule of {provider} is invalid: {error}") from error
        verb, count = "Would apply" if dry_run else "Applied", len(self.rows)
        self.say(f"{verb} the rules to {count} user{pluralize(count)}.")
        return {"dry_run": dry_run, "users": self.rows}

    def _print(self, name: str, grant: claimed_roles.RuleResult) -> None:
        names = dict(Organization.objects.filter(pk__in=grant.roles).values_list("pk", "name"))
        roles = [
            f"{role} in {names.get(pk, f'{pk} (no such organization)')}"
            for pk, role in grant.roles.items()
        ]
        roles += ["staff"] if grant.is_staff else []
        self.say(f"{name}: {', '.join(roles) or 'no roles'}")
        by_organization = {str(pk): str(role) for pk, role in grant.roles.items()}
        self.rows.append({"user": name, "roles": by_organization, "is_staff": grant.is_staff})


def _read_claims(name: str) -> dict[str, Any]:
    try:
        claims = json.loads(sys.stdin.read() if name == "-" else Path(name).read_text())
    except (OSError, ValueError) as error:
        raise CommandError(f"The claims cannot be read from {name}: {error}") from error
    if not isinstance(claims, dict):
        raise CommandError(f"The claims in {name} must be a JSON object.")
    return claims
