"""The ``install_engine`` command: install the agent engine into a virtual environment of its own."""

from typing import Any

from django.core.management.base import BaseCommand

from lib import engine_home


class Command(BaseCommand):
    help = "Install the agent engine into ENGINE_DIR, unless the required version is already installed."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write("Checking the agent engine …")
        try:
            status = engine_home.install(progress=lambda progress: self.stdout.write(str(progress)))
        except (engine_home.NoPython, engine_home.InstallFailed) as error:
            raise SystemExit(str(error)) from None
        self.stdout.write(status.detail)
