"""Builds the gRPC code from its ``.proto``, and checks that what is committed is what it builds."""

import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from conversations import grpc

FOLDER = Path(grpc.__file__).parent
PROTO = "openhands/v1/events.proto"
NAMES = ("events_pb2.py", "events_pb2.pyi", "events_pb2_grpc.py")


class Command(BaseCommand):
    help = "Build the gRPC code from conversations/grpc/protos (needs grpcio-tools)."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        chosen = parser.add_mutually_exclusive_group(required=True)
        chosen.add_argument("--write", action="store_true", help="replace the committed code")
        chosen.add_argument("--check", action="store_true", help="fail where it differs")

    def handle(self, *args: Any, write: bool, check: bool, **options: Any) -> None:
        built = build()
        if write:
            for name, text in built.items():
                (FOLDER / "v1" / name).write_text(text)
            self.stdout.write(f"{len(built)} files written")
        elif changed := [n for n, text in built.items() if (FOLDER / "v1" / n).read_text() != text]:
            raise CommandError(
                f"{', '.join(changed)}: not what the .proto gives. Run manage.py grpc_stubs --write."
            )


def build() -> dict[str, str]:
    """The generated files by name. Raises ``CommandError`` where the compiler refuses the ``.proto``."""
    try:
        from grpc_tools import protoc
    except ImportError as error:
        raise CommandError("grpcio-tools is missing; run make setup.") from error
    with tempfile.TemporaryDirectory() as folder:
        status = protoc.main(
            [
                "protoc",
                f"-I{FOLDER / 'protos'}",
                f"-I{resources.files('grpc_tools') / '_proto'}",
                f"--python_out={folder}",
                f"--pyi_out={folder}",
                f"--grpc_python_out={folder}",
                PROTO,
            ]
        )
        if status:
            raise CommandError("the .proto does not compile")
        made = Path(folder, PROTO).parent
        return {
            name: (made / name)
            .read_text()
            .replace("from openhands.v1 import", "from conversations.grpc.v1 import")
            for name in NAMES
        }
