"""``manage.py revoke_api_keys``: revoke a leaked API key, or all API keys of a user."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError
from django.template.defaultfilters import pluralize

from accounts import services
from accounts.models import ApiKey
from lib.commands import OperatorCommand
from lib.plain import one_line


class Command(OperatorCommand):
    dry_run = "list the keys; revoke none"
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

    def run(self, **options: Any) -> dict[str, Any]:
        keys = list(
            self._select_keys(options).usable().select_related("user").order_by("created_at")
        )
        children = services.child_keys(keys=self._select_keys(options))
        children = [child for child in children if child not in keys]
        if options["children"]:
            keys += children
        for key in keys:
            self.say(_describe(key))
        if options["dry_run"]:
            self.say(f"{len(keys)} key{pluralize(len(keys))} would be revoked.")
        else:
            revoked = services.revoke_api_keys(keys=keys)
            self.say(f"Revoked {revoked} key{pluralize(revoked)}.")
        if children and not options["children"]:
            self.say("Keys created with these keys, which --children would revoke too:")
            for child in children:
                self.say(_describe(child))
        return {
            "dry_run": options["dry_run"],
            "keys": [_to_dict(key) for key in keys],
            "children": [_to_dict(key) for key in children],
        }

    def _select_keys(self, options: dict[str, Any]) -> Any:
        if email := options["email"]:
            return ApiKey.objects.filter(user=services.find_user(email=email))
        prefix = (options["prefix"] or "").strip().partition(".")[0]
        keys = ApiKey.objects.filter(key_id=prefix.removeprefix("oh_"))
        if not prefix.startswith("oh_") or not keys.exists():
            raise CommandError(f"There is no API key with the prefix {prefix!r}.")
        return keys


def _describe(key: ApiKey) -> str:
    return f"{key.prefix}  {key.user.email}  {one_line(key.name)}"


def _to_dict(key: ApiKey) -> dict[str, Any]:
    return {"prefix": key.prefix, "email": key.user.email, "name": key.name}
