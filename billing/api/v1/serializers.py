"""Shapes of the billing API."""

from typing import Any

from rest_framework import serializers

from billing.prices import MAX_PRICE_MICROS


class ModelAccessSerializer(serializers.Serializer[Any]):
    """The model server in force; with the demo model ``is_demo`` is true and ``base_url`` empty."""

    base_url = serializers.CharField()
    model = serializers.CharField()
    has_api_key = serializers.BooleanField()
    prompt_micros_per_million = serializers.IntegerField()
    completion_micros_per_million = serializers.IntegerField()
    cached_micros_per_million = serializers.IntegerField()
    is_demo = serializers.BooleanField()


def _price(**options: Any) -> serializers.IntegerField:
    return serializers.IntegerField(min_value=0, max_value=MAX_PRICE_MICROS, **options)


class NewModelAccessSerializer(serializers.Serializer[Any]):
    """What may be set. Absent or null, ``api_key`` keeps the stored key; an empty text removes it."""

    base_url = serializers.CharField(max_length=500)
    model = serializers.CharField(max_length=200)
    api_key = serializers.CharField(
        required=False, allow_null=True, allow_blank=True, max_length=2_000, write_only=True
    )
    prompt_micros_per_million = _price(default=0)
    completion_micros_per_million = _price(default=0)
    cached_micros_per_million = _price(required=False, help_text="Absent: what prompt tokens cost.")


class ModelCheckSerializer(serializers.Serializer[Any]):
    """What the model server did when it was tried."""

    detail = serializers.CharField()
