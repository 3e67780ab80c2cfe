"""Shapes of what hangs on a conversation: feedback, public links, turns, exports."""

from typing import Any

from rest_framework import serializers

from conversations.api.v1.serializers import EventSerializer
from conversations.services.exports import FORMATS


class TrajectoryQuery(serializers.Serializer[Any]):
    format = serializers.ChoiceField(choices=list(FORMATS), default="json")
    through_seq = serializers.IntegerField(required=False, min_value=0, max_value=2**62)


class NewFeedbackSerializer(serializers.Serializer[Any]):
    """What you think of an event; it replaces what you said before."""

    rating = serializers.IntegerField(min_value=1, max_value=5)
    reason = serializers.CharField(required=False, allow_blank=True, max_length=4_000, default="")
    metadata = serializers.DictField(
        required=False, default=dict, help_text="Anything your client wants back: 4,000 characters."
    )

    def validate_metadata(self, value: dict[str, Any]) -> dict[str, Any]:
        text = str(value)
        if len(text) > 4_000:
            raise serializers.ValidationError("At most 4,000 characters.")
        if "\\x00" in repr(text) or any("\ud800" <= c <= "\udfff" for c in text):
            raise serializers.ValidationError("Texts with NUL or half a surrogate cannot be kept.")
        return value


class FeedbackSerializer(serializers.Serializer[Any]):
    """Your word on one event; without a rating you said nothing."""

    seq = serializers.IntegerField()
    rating = serializers.IntegerField(allow_null=True)
    reason = serializers.CharField(allow_blank=True)
    metadata = serializers.DictField()
    created_at = serializers.DateTimeField(allow_null=True)
    updated_at = serializers.DateTimeField(allow_null=True)


class FeedbackListSerializer(serializers.Serializer[Any]):
    items = FeedbackSerializer(many=True)


class NewShareSerializer(serializers.Serializer[Any]):
    """A public link; it ends by itself and shows nothing behind ``through_seq``."""

    expires_at = serializers.DateTimeField(help_text="In the future, within a year.")
    through_seq = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=2**62,
        help_text="The last event that it shows; by default the newest.",
    )


class ShareSerializer(serializers.Serializer[Any]):
    """A public link. Its address was shown once."""

    id = serializers.UUIDField()
    through_seq = serializers.IntegerField()
    view_count = serializers.IntegerField()
    expires_at = serializers.DateTimeField()
    revoked_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()
    created_by = serializers.UUIDField(source="created_by_id")


class MadeShareSerializer(ShareSerializer):
    """A new link with its token and address, told this once."""

    token = serializers.CharField()
    url = serializers.CharField()


class ShareListSerializer(serializers.Serializer[Any]):
    items = ShareSerializer(many=True)


class ShareViewSerializer(serializers.Serializer[Any]):
    viewed_at = serializers.DateTimeField()
    network = serializers.CharField(
        allow_blank=True, help_text="The viewer's network, /24 or /48; never the address."
    )


class ShareViewsSerializer(serializers.Serializer[Any]):
    items = ShareViewSerializer(many=True)


class SharedSerializer(serializers.Serializer[Any]):
    """What a link tells of its conversation."""

    title = serializers.CharField()
    model = serializers.CharField()
    repository = serializers.CharField(allow_null=True)
    created_at = serializers.DateTimeField()
    last_seq = serializers.IntegerField(help_text="The last event that may be read.")
    expires_at = serializers.DateTimeField()


class SharedEventQuery(serializers.Serializer[Any]):
    after = serializers.IntegerField(required=False, default=0, min_value=0, max_value=2**62)
    limit = serializers.IntegerField(required=False, default=100, min_value=1, max_value=500)


class SharedEventsSerializer(serializers.Serializer[Any]):
    items = EventSerializer(many=True)
    next = serializers.IntegerField(
        allow_null=True, help_text="Pass it as ``after`` for the next page."
    )
    last_seq = serializers.IntegerField()


class NewForkSerializer(serializers.Serializer[Any]):
    """Where the fork begins: behind the last complete turn up to there, by default of all."""

    through_seq = serializers.IntegerField(
        required=False, allow_null=True, min_value=1, max_value=2**62
    )


class TurnSerializer(serializers.Serializer[Any]):
    """What a person said and all that followed."""

    number = serializers.IntegerField()
    from_seq = serializers.IntegerField()
    through_seq = serializers.IntegerField()
    is_complete = serializers.BooleanField()
    text = serializers.CharField(allow_blank=True)
    started_at = serializers.DateTimeField()


class TurnsSerializer(serializers.Serializer[Any]):
    items = TurnSerializer(many=True)


class TurnFileSerializer(serializers.Serializer[Any]):
    path = serializers.CharField()
    status = serializers.ChoiceField(choices=["ADDED", "UPDATED"])
    diff = serializers.CharField(
        allow_null=True, allow_blank=True, help_text="Unified; null where a side is not known."
    )


class TurnDiffSerializer(serializers.Serializer[Any]):
    """Files that the agent's editor changed in a turn."""

    turn = TurnSerializer()
    items = TurnFileSerializer(many=True)
    ran_commands = serializers.BooleanField(
        help_text="The turn ran commands; what they changed is not in the log. Git knows."
    )
