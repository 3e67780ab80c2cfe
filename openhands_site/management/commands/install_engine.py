"""Installs the agent engine into its own environment."""

from typing import Any

from django.core.management.base import BaseCommand

from lib import engine_home


class Command(BaseCommand):
    help = "Install the agent engine into ENGINE_DIR, unless the right one is there."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write("Looking for the agent engine …")
        try:
            found = engine_home.install(progress=lambda progress: self.stdout.write(str(progress)))
        except (engine_home.NoPython, engine_home.InstallFailed) as error:
            raise SystemExit(str(error)) from None
        self.stdout.write(found.detail)
