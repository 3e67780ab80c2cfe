"""``manage.py openapi``: keep docs/openapi.yaml equal to the code."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from drf_spectacular.drainage import GENERATOR_STATS

from openhands_site.openapi import document


class Command(BaseCommand):
    help = "Compare docs/openapi.yaml with the code, or write it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--check", action="store_true", help="fail when the file is out of date")
        what.add_argument("--write", action="store_true", help="write the file")
        default = Path(settings.BASE_DIR) / "docs" / "openapi.yaml"
        parser.add_argument("--file", type=Path, default=default)

    def handle(self, **options: Any) -> None:
        made = document()
        if GENERATOR_STATS:
            GENERATOR_STATS.emit_summary()
            raise CommandError("drf-spectacular could not describe everything; see its warnings.")
        file: Path = options["file"]
        if options["write"]:
            file.write_bytes(made)
        elif not file.is_file() or file.read_bytes() != made:
            raise CommandError(f"{file.name} is out of date: run `manage.py openapi --write`.")
