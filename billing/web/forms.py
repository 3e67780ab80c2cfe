"""The forms of the model page: one for the model server and its prices, and one to return to the demo model."""

from decimal import Decimal
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from lib.forms import OptionField, PageForm, TextField

MICROS = 1_000_000


class PriceField(forms.Field):
    """A field for a price in dollars per million tokens. Its value is in micro-dollars, or None if it is empty."""

    def to_python(self, value: Any) -> int | None:
        """Return the price in micro-dollars, or None if the field is empty."""
        text = str(value or "").strip()
        try:
            return to_micros(text) if text else None
        except ValueError as error:
            raise ValidationError(
                "Enter the price in dollars per million tokens, for example 2.50."
            ) from error


class ModelAccessForm(PageForm):
    """The settings of a model server. An empty ``api_key`` keeps the stored key."""

    base_url = TextField(label="URL", max_length=500)
    model = TextField(label="Model", max_length=200)
    api_key = TextField(label="API key", max_length=2_000, required=False)
    remove_key = forms.BooleanField(label="Remove the stored key", required=False)
    prompt_price = PriceField(label="Prompt", required=False)
    completion_price = PriceField(label="Answer", required=False)
    cached_price = PriceField(label="Cached prompt", required=False)
    intent = OptionField(choices=[("save", "Save"), ("test", "Save and test")], required=False)

    def build_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of ``save_model_access``.

        An ``api_key`` of None keeps the stored key, and an empty text removes it.
        """
        data = self.cleaned_data
        return {
            "base_url": data["base_url"],
            "model": data["model"],
            "api_key": "" if data["remove_key"] else data["api_key"] or None,
            "prompt_micros_per_million": data["prompt_price"] or 0,
            "completion_micros_per_million": data["completion_price"] or 0,
            "cached_micros_per_million": data["cached_price"],
        }


class DemoForm(PageForm):
    """The button that returns to the demo model."""

    intent = OptionField(choices=[("demo", "Use the demo model again")])


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
