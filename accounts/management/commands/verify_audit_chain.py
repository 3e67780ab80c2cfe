"""``manage.py verify_audit_chain``: detect entries of the audit log that were changed, removed or inserted."""

import contextlib
from argparse import ArgumentParser
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError
from django.template.defaultfilters import pluralize

from accounts.models import AuditHead
from accounts.services import audit_chains
from accounts.services.audit_chains import Head
from lib.commands import OperatorCommand, identifier


class Command(OperatorCommand):
    dry_run = "verify and compare only: do not replace the file, do not record the heads"
    help = (
        "Verify the hash chains of the audit log. Print each fault (exit code 1), and the number of entries and the "
        "last hash of each chain. Store this output on another system, and give it to the next run with --anchor: an "
        "attacker who controls this server can forge a whole chain, but not a copy that is stored elsewhere. After a "
        "run without faults, the heads are also recorded in the site's own chain."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--organization",
            type=identifier,
            help="id of the organization whose chain to verify (default: all chains)",
        )
        parser.add_argument(
            "--anchor",
            type=Path,
            metavar="FILE",
            help=(
                "file with the output of the last run: chains that were cut back or replaced since then are faults. "
                "After a run without faults the new output replaces the file; without a file it is created"
            ),
        )

    def run(
        self,
        *,
        organization: UUID | None,
        anchor: Path | None,
        dry_run: bool,
        **options: Any,
    ) -> dict[str, Any]:
        printed = _read_printout(anchor) if anchor else {}
        faults = 0
        for fault in audit_chains.verify_chains(chain=organization, printed=printed):
            faults += 1
            self.stderr.write(fault)
        is_complete = organization is None and not faults and not dry_run
        if is_complete:
            audit_chains.anchor_heads()
        heads = AuditHead.objects.order_by("pk")
        lines = [
            f"{head.chain} {head.count} {head.hash}"
            for head in (heads.filter(pk=organization) if organization else heads)
        ]
        if organization and not lines:
            raise CommandError(
                f"There is no organization with the id {organization} in the audit log."
            )
        self.say("\n".join(lines))
        if faults:
            raise CommandError(
                f"The audit log has {faults} fault{pluralize(faults)}: entries were changed, removed or inserted."
            )
        if anchor and is_complete:
            _write_printout(anchor, lines)
        self.say("The audit log is complete and unchanged.")
        chains = [
            dict(zip(("chain", "count", "hash"), line.split(), strict=True)) for line in lines
        ]
        return {"dry_run": dry_run, "chains": chains}


def _read_printout(path: Path) -> dict[UUID, Head]:
    """Return the heads in a file; nothing if the file does not exist yet."""
    try:
        return audit_chains.parse_printout(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(
            f"{path} cannot be read: {error}. Check the path of --anchor."
        ) from error
    except audit_chains.BadPrintout as error:
        raise CommandError(
            f"{path} is not an output of this command. Give the file that an earlier run printed or wrote, or the "
            "path of a new file."
        ) from error


def _write_printout(path: Path, lines: list[str]) -> None:
    # A crash leaves the old file or the new file, never half a file.
    new = path.with_name(f"{path.name}.new")
    try:
        new.write_text("\n".join(lines) + "\n")
        new.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        raise CommandError(
            f"{path} cannot be written: {error}. Check the path of --anchor."
        ) from error
