"""``manage.py verify_audit_chain``: detect entries of the audit log that were changed, removed or inserted."""

from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.template.defaultfilters import pluralize

from accounts.models import AuditHead
from accounts.services import audit


class Command(BaseCommand):
    help = (
        "Verify the hash chains of the audit log. Print each fault (exit code 1), and the number of entries and the "
        "last hash of each chain. Store this output on another system: an attacker who controls this server can "
        "forge a whole chain, but not a copy that is stored elsewhere."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--organization",
            type=UUID,
            help="id of the organization whose chain to verify (default: all chains)",
        )

    def handle(self, *, organization: UUID | None, **options: Any) -> None:
        faults = 0
        for fault in audit.verify_chains(chain=organization):
            faults += 1
            self.stderr.write(fault)
        heads = AuditHead.objects.order_by("pk")
        for head in heads.filter(pk=organization) if organization else heads:
            self.stdout.write(f"{head.chain} {head.count} {head.hash}")
        if faults:
            raise CommandError(
                f"The audit log has {faults} fault{pluralize(faults)}: entries were changed, removed or inserted."
            )
        self.stdout.write("The audit log is complete and unchanged.")
