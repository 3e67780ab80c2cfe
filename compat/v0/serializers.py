"""Serializers of V0's requests and responses.

OpenHands' own server rejects unknown fields in some request bodies; ``StrictSerializer`` does the same.
"""

from typing import Any

from rest_framework import serializers

from conversations.models import Conversation
from lib.api import MomentField, fields_of, first_sentence
from lib.problems import Problem

TEXT_LENGTH = 200_000
STATUSES = ("STARTING", "RUNNING", "STOPPED", "ARCHIVED", "ERROR")


class Unprocessable(Problem):
    """The body or the query string is not valid. OpenHands' own server responds with 422 too."""

    status = 422
    code = "invalid"
    sentence = "The request is not valid for this route."


class StrictSerializer(serializers.Serializer[Any]):
    """A serializer that rejects unknown fields."""

    def to_internal_value(self, data: Any) -> Any:
        unknown = set(data) - set(self.fields) if isinstance(data, dict) else set()
        if unknown:
            raise serializers.ValidationError(
                {str(name)[:80]: ["This field is not supported here."] for name in unknown}
            )
        return super().to_internal_value(data)


def validate(kind: type[serializers.Serializer[Any]], data: Any) -> dict[str, Any]:
    """Validate data and return the validated data. Raise ``Unprocessable`` with the errors of every field."""
    serializer = kind(data=data)
    if issubclass(kind, FlatQuery):
        serializer.__dict__["fields"] = fields_of(kind)
    if serializer.is_valid():
        return dict(serializer.validated_data)
    errors: Any = serializer.errors
    if not isinstance(errors, dict):
        errors = {"non_field_errors": errors}
    raise Unprocessable(first_sentence(errors), errors=errors)


class TextField(serializers.CharField):
    """A text field that keeps whitespace and accepts only JSON strings."""

    def __init__(self, **options: Any) -> None:
        defaults = {"trim_whitespace": False, "allow_blank": True, "max_length": TEXT_LENGTH}
        super().__init__(**defaults | options)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):  # DRF would accept a number and convert it to a string
            self.fail("invalid")
        return super().to_internal_value(data)


def optional_text(**options: Any) -> TextField:
    return TextField(required=False, allow_null=True, **options)


class SuggestedTaskSerializer(serializers.Serializer[Any]):
    """A suggested task, as ``GET /api/user/suggested-tasks`` lists it."""

    git_provider = serializers.CharField(max_length=40)
    task_type = serializers.CharField(max_length=40)
    repo = serializers.CharField(max_length=300)
    issue_number = serializers.IntegerField()
    title = serializers.CharField(max_length=1_000, allow_blank=True)


class CreateMicroagentSerializer(serializers.Serializer[Any]):
    """The repository and topic of a new microagent."""

    repo = serializers.CharField(max_length=300)
    git_provider = serializers.CharField(max_length=40, required=False, allow_null=True)
    title = serializers.CharField(max_length=200, required=False, allow_null=True)


class V0ConversationCreateSerializer(StrictSerializer):
    """The fields of a new conversation."""

    repository = optional_text(max_length=300)
    git_provider = optional_text(max_length=40)
    selected_branch = optional_text(max_length=250)
    initial_user_msg = optional_text()
    image_urls = serializers.ListField(
        child=serializers.CharField(max_length=2_000_000), required=False, allow_null=True
    )
    replay_json = optional_text(max_length=None)
    suggested_task = SuggestedTaskSerializer(required=False, allow_null=True)
    create_microagent = CreateMicroagentSerializer(required=False, allow_null=True)
    conversation_instructions = optional_text()
    mcp_config = serializers.DictField(required=False, allow_null=True)


class FlatQuery(serializers.Serializer[Any]):
    """The base of serializers of query strings. Their instances share the fields, which store no values."""


class V0ListQuery(FlatQuery):
    """Query parameters of a list of conversations: filters and page."""

    page_id = serializers.CharField(required=False, max_length=300)
    limit = serializers.IntegerField(required=False, default=20, min_value=1, max_value=100)
    selected_repository = serializers.CharField(required=False, max_length=300)
    conversation_trigger = serializers.ChoiceField(
        required=False, choices=Conversation.Trigger.choices
    )
    include_sub_conversations = serializers.BooleanField(required=False, default=False)


class V0EventQuery(FlatQuery):
    """Filters of a list of events, in the query string or, as in V0, in the body of the GET request."""

    start_id = serializers.IntegerField(required=False, default=0, min_value=0, max_value=2**62)
    end_id = serializers.IntegerField(required=False, allow_null=True, min_value=0, max_value=2**62)
    reverse = serializers.BooleanField(required=False, default=False)
    limit = serializers.IntegerField(required=False, default=20)
    exclude_hidden = serializers.BooleanField(required=False, default=False)
    query = serializers.CharField(required=False, allow_null=True, max_length=1_000)
    include_types = serializers.ListField(
        child=serializers.CharField(max_length=80), required=False, allow_null=True, max_length=50
    )
    exclude_types = serializers.ListField(
        child=serializers.CharField(max_length=80), required=False, allow_null=True, max_length=50
    )
    source: Any = serializers.CharField(  # Any: DRF's ``source`` is a string
        required=False, allow_null=True, max_length=40
    )
    start_date = MomentField(required=False, allow_null=True)
    end_date = MomentField(required=False, allow_null=True)


class V0TitleSerializer(StrictSerializer):
    """The new title of a conversation."""

    title = serializers.CharField(min_length=1, max_length=200)


class V0StartSerializer(serializers.Serializer[Any]):
    """The body of a start request. ``providers_set`` is accepted and ignored."""

    providers_set = serializers.ListField(
        child=serializers.CharField(max_length=40), required=False, allow_null=True
    )


class V0MessageSerializer(StrictSerializer):
    """A message for the agent."""

    message = TextField(allow_blank=False)


class V0ExperimentSerializer(serializers.Serializer[Any]):
    """The body of an experiment request. It is accepted and ignored."""

    config = serializers.DictField(required=False, allow_null=True)


class V0UploadSerializer(serializers.Serializer[Any]):
    """Files to upload into the workspace."""

    files = serializers.ListField(child=serializers.FileField())


class V0SubmitFeedbackSerializer(serializers.Serializer[Any]):
    """Feedback about a whole conversation."""

    email = serializers.CharField(max_length=254, required=False, allow_blank=True)
    version = serializers.CharField(max_length=40, required=False, allow_blank=True)
    permissions = serializers.ChoiceField(choices=["public", "private"], default="private")
    polarity = serializers.ChoiceField(choices=["positive", "negative"])
    feedback = TextField(required=False, allow_null=True, max_length=10_000)


class V0FeedbackSerializer(serializers.Serializer[Any]):
    """A rating of one event."""

    conversation_id = serializers.UUIDField()
    event_id = serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=2**62
    )
    rating = serializers.IntegerField(min_value=1, max_value=5)
    reason = TextField(required=False, allow_null=True, max_length=10_000)
    metadata = serializers.DictField(required=False, allow_null=True)


# --- Responses ------------------------------------------------------------------------


class V0ConversationSerializer(serializers.Serializer[Any]):
    """A conversation, as OpenHands' ``ConversationInfo``."""

    conversation_id = serializers.CharField()
    title = serializers.CharField(allow_blank=True)
    last_updated_at = serializers.DateTimeField()
    status = serializers.ChoiceField(choices=STATUSES)
    runtime_status = serializers.CharField()
    selected_repository = serializers.CharField(allow_null=True)
    selected_branch = serializers.CharField(allow_null=True)
    git_provider = serializers.CharField(allow_null=True)
    trigger = serializers.CharField()
    num_connections = serializers.IntegerField()
    url = serializers.CharField()
    session_api_key = serializers.CharField()
    created_at = serializers.DateTimeField()
    pr_number = serializers.ListField(child=serializers.IntegerField())
    conversation_version = serializers.ChoiceField(choices=["V0", "V1"])
    sub_conversation_ids = serializers.ListField(child=serializers.CharField())


class V0ConversationsSerializer(serializers.Serializer[Any]):
    """A page of conversations."""

    results = V0ConversationSerializer(many=True)
    next_page_id = serializers.CharField(allow_null=True)


class V0ConversationResponseSerializer(serializers.Serializer[Any]):
    """The state of a conversation after it was created, started or stopped."""

    status = serializers.CharField()
    conversation_id = serializers.CharField()
    conversation_status = serializers.ChoiceField(choices=STATUSES)
    message = serializers.CharField(allow_null=True)


class V0EventsSerializer(serializers.Serializer[Any]):
    """A page of events."""

    events = serializers.ListField(child=serializers.DictField())
    has_more = serializers.BooleanField()
