"""The forms of the model page: the model server with its prices, the found model servers, and the demo model."""

from typing import Any

from django import forms

from lib.forms import NumberField, OptionField, PageForm, TextField
from lib.money import DollarsField, to_dollars, to_micros

__all__ = ["DemoForm", "ModelAccessForm", "PriceField", "to_dollars", "to_micros"]


class PriceField(DollarsField):
    """A field for a price in dollars per million tokens. Its value is in micro-dollars, or None if it is empty."""

    refusal = "Enter the price in dollars per million tokens, for example 2.50."


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


class ModelServerForm(PageForm):
    """A button at a found model server: its port, and the model that it uses."""

    action = OptionField(choices=[("use", "Use"), ("allow", "Allow"), ("disallow", "Disallow")])
    port = NumberField(label="Port", min_value=1, max_value=65_535)
    model = TextField(label="Model", max_length=200, required=False)


class DemoForm(PageForm):
    """The button that returns to the demo model."""

    intent = OptionField(choices=[("demo", "Use the demo model again")])
