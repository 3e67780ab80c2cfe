"""Forms of the model page: the model server with its prices, and the way back to the demo model."""

from decimal import Decimal
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from lib.forms import OptionField, PageForm, TextField

MICROS = 1_000_000


class PriceField(forms.Field):
    """Dollars for a million tokens, read as micro-dollars; None where nothing is given."""

    def to_python(self, value: Any) -> int | None:
        """Return micro-dollars or None."""
        text = str(value or "").strip()
        try:
            return micros(text) if text else None
        except ValueError as error:
            raise ValidationError(
                "Prices are dollars for a million tokens, such as 2.50."
            ) from error


class ModelAccessForm(PageForm):
    """A model server. An empty key keeps the stored one."""

    base_url = TextField(label="Address", max_length=500)
    model = TextField(label="Model", max_length=200)
    api_key = TextField(label="API key", max_length=2_000, required=False)
    remove_key = forms.BooleanField(required=False)
    prompt_price = PriceField(label="Prompt", required=False)
    completion_price = PriceField(label="Answer", required=False)
    cached_price = PriceField(label="Cached prompt", required=False)
    intent = OptionField(choices=[("save", "Save"), ("test", "Save and test")], required=False)

    def wanted(self) -> dict[str, Any]:
        """Return the arguments of ``save_model_access``: a key of None keeps the stored one, "" removes it."""
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
    """The button that goes back to the demo model."""

    intent = OptionField(choices=[("demo", "Use the demo model again")])


def micros(text: str) -> int:
    """Micro-dollars of an amount in dollars, exactly; an empty text is nothing.

    Raises ``ValueError``, also below a micro-dollar.
    """
    try:
        amount = Decimal(text.strip().removeprefix("$") or "0") * MICROS
    except ArithmeticError:  # not a number, or larger than any
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0 or amount != amount.to_integral_value():
        raise ValueError(text)
    return int(amount)


def dollars(amount: int) -> str:
    """An amount of micro-dollars in dollars, without needless zeros: ``2.5`` or ``0.000001``."""
    whole, part = divmod(amount, MICROS)
    return f"{whole}.{part:06d}".rstrip("0").rstrip(".")
