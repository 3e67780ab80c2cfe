"""Request and response bodies of the billing API."""

from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema_serializer
from rest_framework import serializers

from accounts.models import User
from billing.models import ConversationUsage, ModelCall
from billing.prices import MAX_PRICE_MICROS
from lib.api import MomentField

PERIOD = timedelta(days=30)
"""The length of the period of totals if the request does not send ``since``."""
LONGEST_PERIOD = timedelta(days=366)
"""The longest period of totals. It limits the number of database rows that one request reads."""


class ModelAccessSerializer(serializers.Serializer[Any]):
    """The model server of the caller's conversations. For the demo model, ``base_url`` is empty."""

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
    """The new model server. If ``api_key`` is absent or null, the stored key stays. An empty text removes the key."""

    base_url = serializers.CharField(max_length=500)
    model = serializers.CharField(max_length=200)
    api_key = serializers.CharField(
        required=False, allow_null=True, allow_blank=True, max_length=2_000, write_only=True
    )
    prompt_micros_per_million = _price(default=0)
    completion_micros_per_million = _price(default=0)
    cached_micros_per_million = _price(
        required=False, help_text="Default: the price of prompt tokens."
    )


class ModelCheckSerializer(serializers.Serializer[Any]):
    """The result of a test call to the model server."""

    detail = serializers.CharField(help_text="A sentence about the answer, and the warnings.")
    warnings = serializers.ListField(
        child=serializers.CharField(), help_text="What may not work although the server answered."
    )


# --- Calls and their cost -------------------------------------------------------------


class PeriodQuery(serializers.Serializer[Any]):
    """A period of time in a query string."""

    since = MomentField(required=False, help_text="The first moment of the period.")
    until = MomentField(required=False, help_text="The end of the period, which is not part of it.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "since" in attrs and "until" in attrs and attrs["since"] >= attrs["until"]:
            raise serializers.ValidationError(
                {"until": ["The end of the period must be later than its beginning."]}
            )
        return attrs


class ModelCallQuery(PeriodQuery):
    """Filters of the list of model calls."""

    organization = serializers.UUIDField(
        required=False, help_text="Default: the active organization of the caller."
    )
    conversation = serializers.UUIDField(required=False)
    user = serializers.UUIDField(
        required=False,
        help_text="The user who made the calls. For other users, the caller needs `usage.view_all`.",
    )
    model = serializers.CharField(required=False, max_length=200)
    outcome = serializers.ChoiceField(ModelCall.Outcome.choices, required=False)


class ModelCallSerializer(serializers.ModelSerializer[ModelCall]):
    """One model call: its tokens, its cost in micro-dollars and its duration in seconds.

    ``error`` is the message of a failed call, without secrets; otherwise it is empty.
    """

    conversation = serializers.UUIDField(source="conversation_id")

    class Meta:
        model = ModelCall
        fields = (
            *("id", "organization", "user", "conversation", "model", "outcome", "status"),
            *("prompt_tokens", "completion_tokens", "cached_tokens", "cost_micros"),
            *("seconds", "error", "created_at"),
        )


class TotalsSerializer(serializers.Serializer[Any]):
    """The number of model calls, and the sums of their tokens and of their cost in micro-dollars."""

    calls = serializers.IntegerField()
    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()
    cached_tokens = serializers.IntegerField(
        help_text="The part of `prompt_tokens` that the model server read from its cache."
    )
    cost_micros = serializers.IntegerField(help_text="Micro-dollars.")


class UsageQuery(serializers.Serializer[Any]):
    """The filter of the list of usage per conversation."""

    organization = serializers.UUIDField(
        required=False, help_text="Default: the active organization of the caller."
    )


class ConversationUsageSerializer(serializers.ModelSerializer[ConversationUsage]):
    """The number of model calls of one conversation, and the sums of their tokens and cost."""

    conversation = serializers.UUIDField(source="conversation_id")

    class Meta:
        model = ConversationUsage
        fields = (
            *("conversation", "organization", "calls"),
            *("prompt_tokens", "completion_tokens", "cached_tokens", "cost_micros"),
        )


@extend_schema_serializer(many=False)
class UsagePageSerializer(serializers.Serializer[Any]):
    """A page of usage per conversation. The first page also contains the totals of all conversations."""

    items = ConversationUsageSerializer(many=True)
    next = serializers.CharField(allow_null=True)
    totals = TotalsSerializer(
        allow_null=True,
        help_text="The totals of all conversations on the first page; null on other pages.",
    )


class TotalsQuery(PeriodQuery):
    """Query parameters of the totals: the organization, the period, and the grouping by day, model or user."""

    organization = serializers.UUIDField(
        required=False, help_text="Default: the active organization of the caller."
    )
    by = serializers.ChoiceField(["day", "model", "user"], default="day")
    since = MomentField(
        required=False,
        help_text="The first moment of the period. If absent: 30 days before its end.",
    )
    until = MomentField(
        required=False,
        help_text="The end of the period, which is not part of it. If absent: the time of the request.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        until: datetime = attrs.setdefault("until", timezone.now())
        try:
            attrs.setdefault("since", until - PERIOD)
        except OverflowError as error:
            raise serializers.ValidationError({"until": ["This date is too early."]}) from error
        attrs = super().validate(attrs)
        if until - attrs["since"] > LONGEST_PERIOD:
            raise serializers.ValidationError(
                {
                    "since": [
                        f"A period has at most {LONGEST_PERIOD.days} days. Send a later `since`."
                    ]
                }
            )
        return attrs


class SpenderSerializer(serializers.ModelSerializer[User]):
    """In totals grouped by user: the user who made the calls."""

    class Meta:
        model = User
        fields = ("id", "email", "name")


class GroupSerializer(TotalsSerializer):
    """The totals of one day, model or user. Of the fields ``day``, ``model`` and ``user``, the other two are null."""

    day = serializers.DateField(allow_null=True, help_text="A day in UTC.")
    model = serializers.CharField(allow_null=True)
    user = SpenderSerializer(allow_null=True)


@extend_schema_serializer(many=False)
class PeriodTotalsSerializer(serializers.Serializer[Any]):
    """The totals of the model calls in a period, as a whole and by group."""

    organization = serializers.UUIDField()
    since = serializers.DateTimeField()
    until = serializers.DateTimeField()
    by = serializers.ChoiceField(["day", "model", "user"])
    totals = TotalsSerializer()
    items = GroupSerializer(many=True)
    is_complete = serializers.BooleanField(
        help_text="False if `items` contains only the groups with the highest cost."
    )
