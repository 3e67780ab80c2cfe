"""The base class of the operators' commands, and the types of their arguments.

A command that derives from ``OperatorCommand`` refuses malformed text before it starts, reports a ``Problem`` as one
sentence, and gets ``--json`` and ``--dry-run`` in one way.
"""

import argparse
import json
import math
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser, OutputWrapper

from lib.problems import Problem


class OperatorCommand(BaseCommand):
    """A command for operators: implement ``run``, print with ``say``, and return the data of ``--json``."""

    dry_run = ""
    """The help text of ``--dry-run``. Empty if the command has no ``--dry-run``."""
    is_json = False

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.add_argument(
            "--json",
            action="store_true",
            help='print one JSON object, also for an error: {"error": "…"}',
        )
        if self.dry_run:
            parser.add_argument("--dry-run", action="store_true", help=self.dry_run)
        return parser

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command and print its result. A ``Problem`` becomes a ``CommandError``."""
        self.is_json = bool(options.pop("json", False))
        try:
            _check_texts(options)
            result = self.run(**options)
        except Problem as problem:
            self._print_error(problem.detail)
            raise CommandError(problem.detail) from problem
        except CommandError as error:
            self._print_error(str(error))
            raise
        if self.is_json:
            self.stdout.write(json.dumps(result or {}, default=str, indent=2))

    def run(self, *args: Any, **options: Any) -> dict[str, Any] | None:
        """Do the work and return the data of ``--json``."""
        raise NotImplementedError

    def say(self, text: str, *, to: OutputWrapper | None = None) -> None:
        """Print a line, unless the command prints JSON."""
        if not self.is_json:
            (to or self.stdout).write(text)

    def _print_error(self, sentence: str) -> None:
        if self.is_json:
            self.stdout.write(json.dumps({"error": sentence}))


def _check_texts(options: dict[str, Any]) -> None:
    for name, value in options.items():
        for text in value if isinstance(value, list) else [value]:
            is_bad = (isinstance(text, str) and not is_text(text)) or (
                isinstance(text, Path) and "\0" in str(text)
            )
            if is_bad:
                argument = "--" + name.replace("_", "-")
                raise CommandError(
                    f"{argument} contains bytes or control characters that are not text. Enter it again as UTF-8."
                )


def is_text(text: str) -> bool:
    """Return whether a text can be stored: valid Unicode without control characters except line breaks and tabs."""
    return not any(
        "\ud800" <= mark <= "\udfff" or (mark < " " and mark not in "\n\t") or mark == "\x7f"
        for mark in text
    )


def whole_number(low: int, high: int, *, noun: str = "whole number") -> Callable[[str], int]:
    """Return an argument type for whole numbers from ``low`` to ``high``, both inclusive."""

    def parse(text: str) -> int:
        try:
            number = int(text) if len(text) <= 20 else None
        except ValueError:
            number = None
        if number is None or not low <= number <= high:
            raise argparse.ArgumentTypeError(f"enter a {noun} from {low} to {high}, not {text!r}")
        return number

    return parse


def seconds(low: float, high: float) -> Callable[[str], float]:
    """Return an argument type for numbers of seconds from ``low`` to ``high``, both inclusive."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not low <= number <= high:  # also NaN
            raise argparse.ArgumentTypeError(
                f"enter a number of seconds from {low:g} to {high:g}, not {text!r}"
            )
        return number

    return parse


port = whole_number(1, 65_535, noun="port")
"""The argument type of a TCP port."""
port_or_free = whole_number(0, 65_535, noun="port")
"""The argument type of a TCP port, or of 0 for a free port."""


def filled(high: int) -> Callable[[str], str]:
    """Return an argument type for texts of 1 to ``high`` characters, without spaces around them."""

    def parse(text: str) -> str:
        if not 1 <= len(text.strip()) <= high:
            raise argparse.ArgumentTypeError(f"enter a text of 1 to {high} characters")
        return text.strip()

    return parse


def moment(text: str) -> datetime:
    """Parse a date and time with a time zone, as an argument type."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None:
        raise argparse.ArgumentTypeError(
            f"enter a date and a time with a time zone, such as 2030-01-31T22:00Z, not {text!r}"
        )
    if time.tzinfo is None:
        raise argparse.ArgumentTypeError("the time needs a time zone, such as 2030-01-31T22:00Z")
    return time


def identifier(text: str) -> UUID:
    """Parse a UUID, as an argument type."""
    try:
        return UUID(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"enter an id such as 018f3c6e-7a52-7c1e-9d3b-5a0c2f4e8b61, not {text!r}"
        ) from None
