"""``manage.py maintenance``: turn maintenance mode on or off, plan it, or print its state."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone

from accounts.services import maintenance
from lib.commands import OperatorCommand, moment, whole_number

SENTENCE_MAX = 300
RETRY_AFTER_MAX = 7 * 86_400


class Command(OperatorCommand):
    dry_run = "print the state after the change; change nothing"
    help = (
        "Turn maintenance mode on or off, announce a planned maintenance, or print the state. While maintenance mode "
        "is on, only staff can use the server."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=("on", "off", "plan", "status"))
        parser.add_argument(
            "--at",
            type=moment,
            default=None,
            help="with plan: the start, such as 2030-01-31T22:00Z; without --at, the plan is cancelled",
        )
        parser.add_argument(
            "--sentence", default="", help="message to show to users (up to 300 characters)"
        )
        parser.add_argument(
            "--retry-after",
            type=whole_number(1, RETRY_AFTER_MAX),
            default=300,
            help="seconds after which clients should try again (default: 300)",
        )
        parser.add_argument("--reason", default="", help="reason to record in the audit log")

    def run(self, *, dry_run: bool, **options: Any) -> dict[str, Any]:
        action, at = options["action"], options["at"]
        if len(options["sentence"]) > SENTENCE_MAX:
            raise CommandError(f"--sentence must have at most {SENTENCE_MAX} characters.")
        if at is not None and action != "plan":
            raise CommandError("--at is only for the action plan.")
        if at is not None and at < timezone.now():
            raise CommandError(f"--at must be in the future, but {at.isoformat()} is in the past.")
        maintenance.clear_cache()  # print the new state, not the cached one
        state = maintenance.maintenance()
        if dry_run:
            if action == "plan":
                state.planned_for = at
            elif action != "status":
                state.is_on, state.sentence = action == "on", options["sentence"]
            maintenance.clear_cache()
        elif action == "plan":
            state = maintenance.plan_maintenance(at=at, reason=options["reason"])
        elif action != "status":
            state = maintenance.set_maintenance(
                is_on=action == "on",
                sentence=options["sentence"],
                retry_after=options["retry_after"],
                reason=options["reason"],
            )
        would = " would be" if dry_run else " is"
        self.say(f"Maintenance{would} {state}.")
        if state.planned_for:
            self.say(f"Maintenance{would} planned for {state.planned_for.isoformat()}.")
        if state.is_on:
            self.say(state.sentence or maintenance.SENTENCE)
        return {
            "is_on": state.is_on,
            "planned_for": state.planned_for,
            "sentence": state.sentence,
            "dry_run": dry_run,
        }
