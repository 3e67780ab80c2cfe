"""The ``install_engine`` command: install the agent engine into a virtual environment of its own."""

import time
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError

from lib import engine_home, engine_python, engine_state
from lib.commands import OperatorCommand
from lib.engine_progress import Progress

LINE_SECONDS = 5.0
"""The shortest time between two lines about the progress."""


class Command(OperatorCommand):
    dry_run = "print the state of the engine; install nothing"
    help = "Install the agent engine into ENGINE_DIR, unless the required version is already installed."
    requires_system_checks = ()

    def run(self, *, dry_run: bool, **options: Any) -> dict[str, Any]:
        if dry_run:
            status = engine_state.status()
            self.say(status.detail)
        else:
            status = self._install()
        return asdict(status) | {"dry_run": dry_run}

    def _install(self) -> engine_state.Status:
        began = time.monotonic()
        if (found := engine_state.status()).is_ready:
            self.say(found.detail)
            return found
        self.say(
            "Installing the agent engine. This happens once, and the server can be used meanwhile."
        )
        self.printed_at, self.printed = began, ""
        try:
            status = engine_home.install(progress=self._print)
        except (engine_python.NoPython, engine_home.InstallFailed) as error:
            raise CommandError(str(error)) from error
        self.say(f"The agent engine is ready (took {time.monotonic() - began:.0f} s).")
        return status

    def _print(self, progress: Progress) -> None:
        words = str(progress)
        if time.monotonic() - self.printed_at < LINE_SECONDS or words in ("", self.printed):
            return
        self.printed_at, self.printed = time.monotonic(), words
        self.say(f"  {words}")
