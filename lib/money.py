"""Amounts of money: integer micro-dollars in the program, dollars as text in forms."""

from decimal import Decimal
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

MICROS = 1_000_000


class DollarsField(forms.Field):
    """A field for an amount in dollars. Its value is in micro-dollars, or None if it is empty."""

    refusal = "Enter an amount in dollars, for example 2.50."

    def to_python(self, value: Any) -> int | None:
        """Return the amount in micro-dollars, or None if the field is empty."""
        text = str(value or "").strip()
        try:
            return to_micros(text) if text else None
        except ValueError as error:
            raise ValidationError(self.refusal) from error

    def prepare_value(self, value: Any) -> Any:
        """Return a stored amount in dollars. A text that the user entered stays as it is."""
        return to_dollars(value) if type(value) is int else value


def to_micros(text: str) -> int:
    """Return an amount in dollars as exact micro-dollars; an empty text is 0.

    Raise ``ValueError`` if the text is not an amount, is negative, or has fractions of a micro-dollar.
    """
    try:
        amount = Decimal(text.strip().removeprefix("$") or "0") * MICROS
    except ArithmeticError:  # not a number, or outside Decimal's range
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0 or amount != amount.to_integral_value():
        raise ValueError(text)
    return int(amount)


def to_dollars(amount: int) -> str:
    """Return micro-dollars as dollars, without trailing zeros: ``2.5`` or ``0.000001``."""
    whole, part = divmod(amount, MICROS)
    return f"{whole}.{part:06d}".rstrip("0").rstrip(".")
