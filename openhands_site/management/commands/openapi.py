"""The ``openapi`` command: check or write docs/openapi.yaml."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from drf_spectacular.drainage import GENERATOR_STATS

from openhands_site.openapi import document


class Command(BaseCommand):
    help = "Check that docs/openapi.yaml matches the code, or write it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        action = parser.add_mutually_exclusive_group(required=True)
        action.add_argument(
            "--check", action="store_true", help="fail if the file does not match the code"
        )
        action.add_argument("--write", action="store_true", help="write the file")
        default = Path(settings.BASE_DIR) / "docs" / "openapi.yaml"
        parser.add_argument(
            "--file", type=Path, default=default, help="another file than docs/openapi.yaml"
        )

    def handle(self, **options: Any) -> None:
        content = document()
        if GENERATOR_STATS:
            GENERATOR_STATS.emit_summary()
            raise CommandError(
                "drf-spectacular could not describe every route. Fix the warnings above."
            )
        file: Path = options["file"]
        try:
            if options["write"]:
                file.write_bytes(content)
                return
            is_current = file.is_file() and file.read_bytes() == content
        except (OSError, ValueError) as error:
            raise CommandError(f"The file of --file cannot be used: {error}") from error
        if not is_current:
            raise CommandError(f"{file.name} is out of date. Run `manage.py openapi --write`.")
