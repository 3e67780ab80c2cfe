"""The ``rolling_restart`` command: restart this machine's processes one by one without an interruption."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from lib import nodes
from lib.commands import seconds
from openhands_site.operating import restarting


class Command(BaseCommand):
    help = (
        "Restart the processes of this machine one by one. Each process receives SIGTERM when a new process has "
        "replaced the previous process. A supervisor such as systemd must start the new processes."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--role",
            action="append",
            choices=restarting.ORDER,
            help="restart only processes of this role; may be repeated",
        )
        parser.add_argument(
            "--timeout",
            type=seconds(1, 86_400),
            default=90,
            help="seconds to wait for each process to be replaced (default: %(default)s)",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="list the processes without restarting them"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object per process")

    def handle(self, *args: Any, **options: Any) -> None:
        self.is_json = options["json"]
        try:
            planned = restarting.plan(options["role"] or restarting.ORDER)
            if options["dry_run"]:
                for node in planned:
                    self._print(f"{node.role} {node.pid}", role=node.role, pid=node.pid)
                return
            count = 0
            for replaced in restarting.restart(
                planned, seconds=options["timeout"], say=self.stderr.write
            ):
                count += 1
                before, after = replaced.before, replaced.after
                self._print(
                    f"{before.role} {before.pid} -> {after.pid} ({replaced.seconds} s)",
                    role=before.role,
                    pid=before.pid,
                    successor=after.pid,
                    seconds=replaced.seconds,
                )
        except (restarting.NotReplaced, nodes.NodeListUnavailable) as error:
            raise CommandError(str(error)) from error
        if not self.is_json:
            self.stdout.write(f"{count} processes restarted.")

    def _print(self, text: str, **values: Any) -> None:
        self.stdout.write(json.dumps(values) if self.is_json else text)
