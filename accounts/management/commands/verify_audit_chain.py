"""``manage.py verify_audit_chain``: whether a row of the audit log was changed, removed or put in."""

from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError

from accounts.models import AuditHead
from accounts.services import audit


class Command(BaseCommand):
    help = (
        "Verify the chains of the audit log (exit code 1 with a sentence for each fault), and print where they "
        "end. Keep what it prints elsewhere: whoever can change both the rows and our pepper cannot change that."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--organization", type=UUID, help="only this organization's chain")

    def handle(self, *, organization: UUID | None, **options: Any) -> None:
        faults = 0
        for fault in audit.verify_chains(chain=organization):
            faults += 1
            self.stderr.write(fault)
        heads = AuditHead.objects.order_by("pk")
        for head in heads.filter(pk=organization) if organization else heads:
            self.stdout.write(f"{head.chain} {head.count} {head.hash}")
        if faults:
            raise CommandError(f"{faults} faults: the audit log was tampered with.")
        self.stdout.write("The audit log is as it was written.")
