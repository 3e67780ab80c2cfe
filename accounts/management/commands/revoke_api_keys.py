"""``manage.py revoke_api_keys``: revoke a leaked API key, or all API keys of a user."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.template.defaultfilters import pluralize

from accounts import services
from accounts.models import ApiKey
from lib.plain import one_line
from lib.problems import Problem


class Command(BaseCommand):
    help = "Revoke one API key, found by its prefix or by the whole key, or all API keys of a user."

    def add_arguments(self, parser: ArgumentParser) -> None:
        selection = parser.add_mutually_exclusive_group(required=True)
        selection.add_argument("--prefix", help="prefix of the key: oh_ and the next 12 characters")
        selection.add_argument("--email", help="e-mail address of the user whose keys to revoke")
        parser.add_argument(
            "--children",
            action="store_true",
            help="also revoke the keys that were created with these keys",
        )
        parser.add_argument("--dry-run", action="store_true", help="list the keys; revoke none")

    def handle(self, **options: Any) -> None:
        keys = list(
            self._select_keys(options).usable().select_related("user").order_by("created_at")
        )
        children = services.child_keys(keys=self._select_keys(options))
        children = [child for child in children if child not in keys]
        if options["children"]:
            keys += children
        for key in keys:
            self.stdout.write(f"{key.prefix}  {key.user.email}  {one_line(key.name)}")
        if options["dry_run"]:
            self.stdout.write(f"{len(keys)} key{pluralize(len(keys))} would be revoked.")
        else:
            revoked = services.revoke_api_keys(keys=keys)
            self.stdout.write(f"Revoked {revoked} key{pluralize(revoked)}.")
        if children and not options["children"]:
            self.stdout.write("Keys created with these keys, which --children would revoke too:")
            for child in children:
                self.stdout.write(f"{child.prefix}  {child.user.email}  {child.name}")

    def _select_keys(self, options: dict[str, Any]) -> Any:
        if email := options["email"]:
            try:
                return ApiKey.objects.filter(user=services.find_user(email=email))
            except Problem as error:
                raise CommandError(error.detail) from error
        prefix = options["prefix"].strip().partition(".")[0]
        keys = ApiKey.objects.filter(key_id=prefix.removeprefix("oh_"))
        if not prefix.startswith("oh_") or not keys.exists():
            raise CommandError(f"There is no API key with the prefix {prefix!r}.")
        return keys
