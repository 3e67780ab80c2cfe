"""Restarts the processes of this machine one after the other, without an interruption."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from lib import nodes
from openhands_site.operating import restarting


class Command(BaseCommand):
    help = (
        "Restart the processes of this machine one after the other: each is asked to end (SIGTERM), and the next "
        "follows when a new one has taken its place. Whatever supervises them has to start them again."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--role", action="append", choices=restarting.ORDER, help="only these; may be repeated"
        )
        parser.add_argument(
            "--timeout", type=float, default=90, help="seconds for each (%(default)s)"
        )
        parser.add_argument("--dry-run", action="store_true", help="say what would be restarted")
        parser.add_argument("--json", action="store_true", help="one JSON object a process")

    def handle(self, *args: Any, **options: Any) -> None:
        self.is_json = options["json"]
        try:
            planned = restarting.plan(options["role"] or restarting.ORDER)
            if options["dry_run"]:
                for node in planned:
                    self._say(f"{node.role} {node.pid}", role=node.role, pid=node.pid)
                return
            done = 0
            for one in restarting.restart(
                planned, seconds=options["timeout"], say=self.stderr.write
            ):
                done += 1
                self._say(
                    f"{one.before.role} {one.before.pid} -> {one.after.pid} ({one.seconds} s)",
                    role=one.before.role,
                    pid=one.before.pid,
                    successor=one.after.pid,
                    seconds=one.seconds,
                )
        except (restarting.NotReplaced, nodes.RegistryUnavailable) as refusal:
            raise CommandError(str(refusal)) from refusal
        if not self.is_json:
            self.stdout.write(f"{done} processes restarted")

    def _say(self, text: str, **values: Any) -> None:
        self.stdout.write(json.dumps(values) if self.is_json else text)
