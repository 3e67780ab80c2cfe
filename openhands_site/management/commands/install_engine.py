"""The ``install_engine`` command: install the agent engine into a virtual environment of its own."""

from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError

from lib import engine_home, engine_python
from lib.commands import OperatorCommand


class Command(OperatorCommand):
    dry_run = "print the state of the engine; install nothing"
    help = "Install the agent engine into ENGINE_DIR, unless the required version is already installed."
    requires_system_checks = ()

    def run(self, *, dry_run: bool, **options: Any) -> dict[str, Any]:
        if dry_run:
            status = engine_home.status()
        else:
            self.say("Checking the agent engine …")
            try:
                status = engine_home.install(progress=lambda progress: self.say(str(progress)))
            except (engine_python.NoPython, engine_home.InstallFailed) as error:
                raise CommandError(str(error)) from error
        self.say(status.detail)
        return asdict(status) | {"dry_run": dry_run}
