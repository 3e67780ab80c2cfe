"""``manage.py revoke_api_keys``: end a leaked key, or all keys of somebody."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts import services
from accounts.models import ApiKey
from lib.problems import Problem


class Command(BaseCommand):
    help = "Revoke API keys by their prefix (oh_…; a whole key works too) or by their owner."

    def add_arguments(self, parser: ArgumentParser) -> None:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--prefix", help="oh_ and the 12 characters after it")
        which.add_argument("--email", help="revoke all keys of this user")
        parser.add_argument("--dry-run", action="store_true", help="say which, revoke none")

    def handle(self, **options: Any) -> None:
        keys = list(self._chosen(options).usable().select_related("user").order_by("created_at"))
        for key in keys:
            self.stdout.write(f"{key.prefix}  {key.user.email}  {key.name}")
        if options["dry_run"]:
            self.stdout.write(f"{len(keys)} would be revoked.")
        else:
            self.stdout.write(f"{services.revoke_api_keys(keys=keys)} revoked.")

    def _chosen(self, options: dict[str, Any]) -> Any:
        if email := options["email"]:
            try:
                return ApiKey.objects.filter(user=services.find_user(email=email))
            except Problem as error:
                raise CommandError(error.detail) from error
        prefix = options["prefix"].strip().partition(".")[0]
        found = ApiKey.objects.filter(key_id=prefix.removeprefix("oh_"))
        if not prefix.startswith("oh_") or not found.exists():
            raise CommandError(f"There is no key with the prefix {prefix!r}.")
        return found
