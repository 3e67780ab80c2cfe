"""Generate the gRPC code from its ``.proto`` file, or check that the committed code is up to date."""

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
    help = (
        "Generate the gRPC code from the files in conversations/grpc/protos. Requires grpcio-tools."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        mode = parser.add_mutually_exclusive_group(required=True)
        mode.add_argument("--write", action="store_true", help="Replace the committed code.")
        mode.add_argument(
            "--check", action="store_true", help="Fail if the committed code is outdated."
        )

    def handle(self, *args: Any, write: bool, check: bool, **options: Any) -> None:
        generated = build()
        if write:
            for name, text in generated.items():
                (FOLDER / "v1" / name).write_text(text)
            self.stdout.write(f"Wrote {len(generated)} files.")
        elif outdated := [
            n for n, text in generated.items() if (FOLDER / "v1" / n).read_text() != text
        ]:
            raise CommandError(
                f"{', '.join(outdated)} is not up to date with the .proto file. Run manage.py grpc_stubs --write."
            )


def build() -> dict[str, str]:
    """Return a dict from file name to generated text. Raise ``CommandError`` if the ``.proto`` file is not valid."""
    try:
        from grpc_tools import protoc
    except ImportError as error:
        raise CommandError("grpcio-tools is not installed. Run make setup.") from error
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
            raise CommandError("The .proto file does not compile. See the compiler's output above.")
        output = Path(folder, PROTO).parent
        return {
            name: (output / name)
            .read_text()
            .replace("from openhands.v1 import", "from conversations.grpc.v1 import")
            for name in NAMES
        }
