"""The ``quickstart`` command: start PostgreSQL, Redis and every role of the server in one terminal.

``manage.py`` runs this command without loading the settings first, because the command creates the environment from
which the settings are read.
"""

import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from lib.commands import port
from openhands_site.operating.embedded import CannotStart
from openhands_site.operating.quickstart.run import Quickstart


class Command(BaseCommand):
    help = (
        "Start the server and its services on this machine: PostgreSQL, Redis, database tables, the agent engine "
        "and all roles."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
        )
        parser.add_argument(
            "--port", type=port, default=8000, help="port to listen on (default: %(default)s)"
        )
        parser.add_argument(
            "--data-dir",
            type=Path,
            help="folder for all data (default: DATA_DIR, else `data` in the project)",
        )
        parser.add_argument(
            "--admin-email",
            default="",
            help="e-mail address of the first administrator; set OH_ADMIN_PASSWORD to create the account without "
            "a setup link",
        )
        parser.add_argument(
            "--grpc-port", type=port, help="also serve gRPC, on this port of the loopback address"
        )
        parser.add_argument(
            "--json",
            action="store_true",
            help="print a JSON object on standard output when the server is ready, and all else on standard error",
        )
        parser.add_argument(
            "--no-engine", action="store_true", help="do not install the agent engine"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        start = Quickstart(
            host=options["host"],
            port=options["port"],
            data_dir=options["data_dir"],
            admin_email=options["admin_email"],
            grpc_port=options["grpc_port"],
            is_json=options["json"],
            wants_engine=not options["no_engine"],
        )
        try:
            start.run()
        except CannotStart as refusal:
            sys.exit(f"\n{refusal}")
        except KeyboardInterrupt:
            sys.exit("\nInterrupted during startup. All processes were stopped.")
